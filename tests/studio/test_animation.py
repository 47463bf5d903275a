"""Animations of a layer: the right numbers at the right step, and the same bytes every time."""

import io
import xml.etree.ElementTree as ElementTree
import zipfile

import pytest
from PIL import Image
from studio_helpers import rows

from halfstride.figures.upsampling import number
from halfstride.studio.animation import animate, draw, encode
from halfstride.studio.explanation import explain
from halfstride.studio.layer import Layer

LAYERS = [
    Layer(),
    Layer(dims=1, input_size=4, kernel_size=3, input=(1, -2, 3.5, 4)),
    Layer(form="conv", input_size=5, padding=1),
    Layer(form="resize", padding=1),
    Layer(form="subpixel", dims=1, padding=1),
]


def texts(frame):
    return ["".join(text for text, _ in words.pieces) for words in frame.words]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("view", ["scatter", "sliding"])
def test_there_is_a_frame_for_every_step_with_all_inside_and_the_last_has_every_output(layer, view):
    told = explain(layer)
    frames = animate(layer, view)
    assert len(frames) == (len(told.input) if view == "scatter" else len(told.output)) + 1
    assert {number(value) for value in told.output} <= set(texts(frames[-1]))
    orange = {rectangle for rectangle in frames[-1].rectangles if rectangle.fill == "#fbe6d8"}
    assert len(orange) == len(told.output)
    for frame in frames:
        for shape in frame.rectangles:
            assert shape.x >= 0 <= shape.y
            assert shape.x + shape.width <= frame.width
            assert shape.y + shape.height <= frame.height


def test_a_step_says_its_sum():
    told = explain(LAYERS[1])
    frames = animate(LAYERS[1], "sliding")
    for j, frame in enumerate(frames[:-1]):
        terms = [term for term in rows(told.terms) if term.j == j]
        sums = " + ".join(f"{number(told.input[term.i])}·{number(told.kernel[term.t])}" for term in terms)
        assert texts(frame)[-1] == f"{sums} = {number(told.output[j])}"


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (Layer(form="conv"), "input"),
        (Layer(form="conv", padding=1), "input, padded"),
        (Layer(form="resize", padding=1), "input, repeated and padded"),
        (Layer(form="transposed", stride=2), "input, with zeros between and padded"),
    ],
)
def test_the_input_under_a_sliding_kernel_is_called_by_what_was_done_to_it(layer, name):
    assert name in texts(animate(layer, "sliding")[0])


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_same_layer_gives_the_same_bytes(theme):
    layer = Layer(dims=1)
    for kind in ("gif", "svg", "png"):
        assert encode(animate(layer, theme=theme), kind) == encode(animate(layer, theme=theme), kind)


def test_a_gif_has_every_frame_and_repeats():
    with Image.open(io.BytesIO(encode(animate(Layer()), "gif", 0.5))) as image:
        assert image.size == (1280, 720)
        assert image.n_frames == 10
        assert image.info["loop"] == 0
        assert image.info["duration"] == 500
        image.seek(9)
        assert image.info["duration"] == 1500


def test_an_svg_is_one_valid_file_that_shows_its_last_frame_where_it_cannot_play():
    frames = animate(Layer())
    root = ElementTree.fromstring(encode(frames, "svg"))
    space = "{http://www.w3.org/2000/svg}"
    still = [
        "".join(node.itertext()).strip() for node in root.iter(f"{space}text") if node.get("visibility") != "hidden"
    ]
    assert sorted(still) == sorted(texts(frames[-1]))
    for node in root.iter(f"{space}animate"):
        times = [float(time) for time in node.get("keyTimes").split(";")]
        assert times[0] == 0
        assert times == sorted(times)
        assert len(times) == len(node.get("values").split(";"))


VIEWS = ("scatter", "emulated", "phases", "matrix", "coverage")


def drawn(layer, view, **options):
    """The texts of a view that was drawn as SVG, by the colour of what is behind them, and its size."""
    root = ElementTree.fromstring(draw(layer, view, **options))
    space = "{http://www.w3.org/2000/svg}"
    boxes = [
        ([float(node.get(name)) for name in ("x", "y", "width", "height")], node.get("fill"), node.get("stroke"))
        for node in root.iter(f"{space}rect")
        if node.get("x")
    ]
    for (x, y, width, height), *_ in boxes:
        assert x >= 0 <= y
        assert x + width <= float(root.get("width"))
        assert y + height <= float(root.get("height"))
    found = {}
    for node in root.iter(f"{space}text"):
        if node.get("text-anchor") != "middle" or node.get("font-weight"):
            continue  # a name, or a number in a corner
        x, y = float(node.get("x")), float(node.get("y"))
        under = [fill for (left, top, w, h), fill, _ in boxes if left <= x <= left + w and top <= y <= top + h]
        found.setdefault(next((one for one in under if one != "none"), None), []).append("".join(node.itertext()))
    return found


LIT_INPUT, LIT_KERNEL, LIT_OUTPUT = "#0b5fa8", "#00705a", "#b0440a"
INPUT, KERNEL, OUTPUT = "#dcebf9", "#d8f0e8", "#fbe6d8"


@pytest.mark.parametrize("layer", LAYERS)
def test_a_view_is_drawn_at_any_step_with_its_own_numbers(layer):
    told = explain(layer)
    values = sorted(map(number, told.output))
    for view in ("scatter", "emulated", "matrix"):
        assert sorted(drawn(layer, view)[OUTPUT]) == values
    j = len(told.output) // 2
    inputs = sorted({term.i for term in rows(told.terms) if term.j == j})
    shown = drawn(layer, "scatter", by="outputs", step=j)
    assert sorted(shown.get(LIT_INPUT, [])) == sorted(number(told.input[i]) for i in inputs)
    assert shown[LIT_OUTPUT] == [number(told.output[j])]
    assert sorted(shown.get(OUTPUT, [])) == sorted(map(number, told.output[:j]))
    i = len(told.input) // 2
    reached = {term.j for term in rows(told.terms) if term.i <= i}
    for view in ("scatter", "emulated", "matrix"):
        shown = drawn(layer, view, step=i)
        assert set(shown[LIT_INPUT]) == {number(told.input[i])}
        assert sorted(shown[OUTPUT]) == sorted(number(told.partial[i][j]) for j in reached)
    entries = [number(entry.value) for entry in rows(told.matrix) if entry.i == i]
    for turned in (False, True):
        assert sorted(drawn(layer, "matrix", step=i, turned=turned)[LIT_KERNEL]) == sorted(entries)
    kernels = [v for phase in told.phases.kernels for v, taps in zip(phase.kernel, phase.taps, strict=True) if taps]
    shown = drawn(layer, "phases")
    assert sorted(shown[KERNEL]) == sorted(map(number, kernels))
    assert sorted(shown[{"input": INPUT, "output": OUTPUT}[told.phases.side]]) == sorted(
        map(number, getattr(told, told.phases.side))
    )
    counts = [text for texts in drawn(layer, "coverage").values() for text in texts]
    assert sorted(counts) == sorted(map(str, told.coverage.counts))


def test_what_lands_from_several_taps_is_added_up():
    layer = Layer(form="resize", dims=1, padding=1)
    told = explain(layer)
    landing = [number(entry.contribution) for entry in rows(told.matrix) if entry.i == 1]
    frame = animate(layer)[1]
    assert texts(frame)[-1] == f"{number(told.input[1])} times the kernel:  {', '.join(landing)}"
    assert len([words for words in frame.words if words.pieces[0][0] in landing and words.centred]) >= len(landing)
    places = [(words.x, words.y) for words in frame.words]
    assert len(set(places)) == len(places)  # no number on top of another


@pytest.mark.parametrize("view", VIEWS)
def test_a_pdf_is_one_page_of_vectors_and_the_same_every_time(view):
    content = draw(Layer(), view, step=1, format="pdf")
    assert content.startswith(b"%PDF-")
    assert content.count(b"/Type /Page ") == 1
    assert b"/Subtype /Image" not in content
    assert content == draw(Layer(), view, step=1, format="pdf")
    assert content != draw(Layer(), view, step=1, format="pdf", theme="dark")


def test_a_picture_of_a_view_is_served(client):
    for kind in ("svg", "pdf"):
        answer = client.get(f"/api/layer/picture?dims=1&view=matrix&by=outputs&step=2&turned=yes&format={kind}")
        expected = draw(Layer(dims=1), "matrix", "outputs", 2, turned=True, format=kind)
        assert answer.content == expected
        assert answer.headers["content-disposition"] == f'attachment; filename="transposed-matrix.{kind}"'
    assert client.get("/api/layer/picture?padding=9").status_code == 422


def test_png_frames_are_numbered():
    with zipfile.ZipFile(io.BytesIO(encode(animate(Layer()), "png"))) as archive:
        assert archive.namelist() == [f"{place:02}.png" for place in range(1, 11)]
        with Image.open(archive.open("05.png")) as image:
            assert image.size == (1280, 720)


def test_animate_writes_a_gif_an_svg_or_a_folder(halfstride, tmp_path):
    assert halfstride("animate", "transposed", "--dims", "1") == (0, "4 frames in layer.gif\n", "")
    assert (tmp_path / "layer.gif").read_bytes() == encode(animate(Layer(dims=1)), "gif")
    arguments = ["resize", "--padding", "1", "--dims", "1", "--view", "sliding", "--theme", "dark"]
    halfstride.out("animate", *arguments, "--out", "b.svg")
    layer = Layer(form="resize", padding=1, dims=1)
    assert (tmp_path / "b.svg").read_bytes() == encode(animate(layer, "sliding", "dark"), "svg")
    halfstride.out("animate", "conv", "--input", "3", "--out", "frames")
    assert len(list((tmp_path / "frames").glob("*.png"))) == 10


def test_animate_and_studio_say_what_is_wrong(halfstride, tmp_path):
    for arguments, error in (
        (
            ["animate", "transposed", "--padding", "9"],
            "`--padding` (=9) leaves nothing of the full output (=7): use at",
        ),
        (["animate", "transposed", "--out", "a.mp4"], "`--out` (=a.mp4) must end in .gif or .svg, or name a folder."),
        (["studio", "nowhere", "--no-open"], "`runs` (=nowhere) is not a folder"),
    ):
        assert halfstride.error(*arguments).startswith(f"error: {error}")
    assert list(tmp_path.iterdir()) == []
