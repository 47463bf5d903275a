"""Whatever the OpenAPI description allows, and what it does not, the server answers without falling over."""

import pytest
from hypothesis import HealthCheck, given, settings

from halfstride.studio.app import create_app

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis needs Python 3.11")
RUN = "/api/runs/{name}"
GET = ["/api/layer", "/api/layer/animation", "/api/layer/page", "/api/layer/schema", "/api/runs", RUN]
GET += [f"{RUN}/{rest}" for rest in ("progress", "evaluation", "work", "pictures/{file}", "images", "latent")]
GET += [f"{RUN}/network", f"{RUN}/checkup", "/api/layer/picture", "/api/checkerboard", f"{RUN}/checkerboard"]
GET += [f"{RUN}/{rest}" for rest in ("results", "reconstruction", "thumbnails", "rows", "neighbours")]
GET += [f"{RUN}/results/{{result}}{rest}" for rest in ("", "/{place}", "/{place}/thumbnail")]
POST = ["/api/checkerboard", "/api/pictures/checkup"]
POST += [f"{RUN}/{rest}" for rest in ("decode", "walk", "reconstruct", "allow")]
OPERATIONS = [*(("GET", path) for path in GET), *(("POST", path) for path in POST)]
SLOW = ("animation", "checkup", "layer/picture", "checkerboard")


@pytest.fixture(scope="module")
def api(runs):
    return schemathesis.openapi.from_asgi("/api/openapi.json", create_app(runs), headers={"host": "localhost"})


def test_there_is_a_description_of_all_addresses(client):
    assert set(client.get("/api/openapi.json").json()["paths"]) == {path for _, path in OPERATIONS}
    assert client.get("/docs").status_code == 404  # FastAPI's own would load scripts from elsewhere


@pytest.mark.parametrize(
    ("method", "path", "known"),
    [(*operation, known) for operation in OPERATIONS for known in (True, False)[: 1 + ("{name}" in operation[1])]],
)
def test_no_request_makes_the_server_fall_over(api, method, path, known):
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import status_code_conformance

    statuses = set()
    requests = [
        api[path][method].as_strategy(generation_mode=mode)
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
    ]

    @settings(max_examples=6 if path.endswith(SLOW) else 25, suppress_health_check=list(HealthCheck))
    @given(requests[0] | requests[1])
    def ask(case):
        if known and "{name}" in path:
            case.path_parameters["name"] = "plane"
            if "by" in (case.query or {}):
                case.query["by"] = "plane"
        answer = case.call(headers={"host": "localhost"})
        statuses.add(answer.status_code)
        case.validate_response(answer, checks=[not_a_server_error, status_code_conformance])

    ask()
    assert not known or 200 in statuses or method == "POST" or "{file}" in path or "{result}" in path
