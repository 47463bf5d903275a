"""The benchmarks' own arithmetic: what is measured is what the row says, and the tables say what was measured."""

import json
import math
import shutil
import sys
from itertools import product
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import accuracy, report, runner, zoo
from benchmarks.models import MODELS
from benchmarks.peers import Peer, Task, network, network_inputs, peers_for, reference
from benchmarks.quality import report as quality_report
from benchmarks.rows import LAYERS, fewest_bytes, fewest_products, parse
from benchmarks.worker import _Worker
from halfstride._core.algorithms import ALGORITHMS
from halfstride._core.planner import explain

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"
SMALL = [
    "resize 2x3x5 -> 4 k5 s3",
    "resize 1x3x4x5 -> 2 k3 s2",
    "transposed 1x3x4x5 -> 2 k3 s2 p1 op1",
    "transposed 1x2x3x4x2 -> 3 k2 s2",
    "subpixel 1x3x4x5 -> 2 k3 s2",
]


@pytest.mark.parametrize("row", LAYERS, ids=lambda row: row.name)
def test_a_row_says_what_its_network_computes(row):
    task = Task(row.name, device="meta")
    module = network(task)
    output = module(*network_inputs(task))
    assert output.shape == row.output_shape
    assert row.weight_shape in [parameter.shape for parameter in module.parameters()]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "resize 1x2x3",
            r"`row` \(='resize 1x2x3'\) cannot be read: write it like 'transposed 8x64x16x16 -> 32 k4 s2 p1'.",
        ),
        ("resize 1x2x3 -> 4 k4 s2", "must have an odd kernel and no p or op: a resize row keeps its size."),
        ("subpixel 1x2x3x3 -> 4 k3 s2 p1", "must have an odd kernel and no p or op: a subpixel row keeps its size."),
    ],
)
def test_a_line_that_cannot_be_read_is_refused(line, message):
    with pytest.raises(ValueError, match=message):
        parse(line)


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("size", ["6", "6x5", "6x5x4"])
def test_fewest_products_are_those_of_the_most_frugal_algorithm(scale, size):
    row = parse(f"resize 2x3x{size} -> 4 k3 s{scale}")
    plan = explain("resize", row.input_shape, row.weight_shape, scale_factor=scale)
    counts = [candidate.macs for candidate in plan.candidates if candidate.macs is not None]
    assert fewest_products(row) == 2 * 3 * 4 * math.prod(row.size) * 3**row.axes <= min(counts)


def test_fewest_bytes_count_every_tensor_once():
    row = parse("transposed 1x2x3x3 -> 4 k2 s2")
    assert fewest_bytes(row) == 4 * (2 * 9 + 2 * 4 * 4 + 4 * 36)
    assert fewest_bytes(row, itemsize=2, training=True) == fewest_bytes(row)


def names(task):
    return [peer.name for peer in peers_for(task)]


def test_everyone_takes_part_who_can():
    forward = names(Task("resize 1x3x4x5 -> 2 k3 s2"))
    assert {"eager", "eager channels_last", "compile", "onnxruntime", "openvino", "folded by hand"} <= set(forward)
    assert {"halfstride", "halfstride compile", "halfstride by_parts", "halfstride phases", "gemm", "copy"} <= set(
        forward
    )
    assert "onnxruntime" not in names(Task("resize 1x3x4x5 -> 2 k3 s2", training=True))
    assert "openvino" not in names(Task("resize 1x3x4x5 -> 2 k3 s2", dtype=torch.bfloat16))
    assert "folded by hand" not in names(Task("transposed 1x3x4x5 -> 2 k3 s2"))
    assert not any("channels_last" in name for name in names(Task("resize 1x3x4 -> 2 k3 s2")))
    assert "halfstride emulated" not in names(Task("transposed 1x1026x224 -> 1 k1024 s256 p384"))


@pytest.mark.parametrize("training", [False, True], ids=["forward", "training"])
@pytest.mark.parametrize("line", SMALL)
def test_peers_compute_what_the_row_says(line, training, tmp_path):
    task, path = Task(line, training), str(tmp_path / "reference.pt")
    _Worker().reference(task, path)
    form = task.row.form
    every = set(ALGORITHMS)
    cannot = {"resize": set(), "transposed": {"folded", "by_parts"}, "subpixel": every - {"native"}}[form]
    for peer in peers_for(task):
        if peer.compiled or peer.how in ("compile", "openvino", "gemm", "copy"):
            continue
        worker = _Worker()
        if peer.kind == "halfstride" and peer.how in cannot:
            with pytest.raises(ValueError, match="cannot compute this case"):
                worker.prepare(peer, task)
            continue
        worker.prepare(peer, task)
        assert worker.check(path)["error"] < 1e-6, peer.name
        assert worker.turn(2) > 0


def test_auto_says_what_it_chose():
    worker = _Worker()
    line = "transposed 1x3x4x5 -> 2 k3 s2 p1 op1"
    plan = explain("transposed", (1, 3, 4, 5), (3, 2, 3, 3), stride=2, padding=1, output_padding=1)
    assert worker.prepare(Peer("halfstride", "halfstride", "auto"), Task(line)) == plan.algorithm
    assert worker.prepare(Peer("eager", "ready-made", "eager"), Task(line)) is None


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch about itself
def test_auto_through_the_compiler(tmp_path):
    worker, path = _Worker(), str(tmp_path / "reference.pt")
    peer = Peer("halfstride compile", "halfstride", "auto", True, compiled=True)
    for line, training, chosen in (
        ("transposed 1x3x4x5 -> 2 k3 s2 p1 op1", False, "scatter, compiled"),
        ("resize 1x512x32x32 -> 512 k3 s2", False, "by_parts, compiled"),  # one operator, which chooses as it runs
        ("resize 1x128x8x8 -> 128 k3 s2", True, "by_parts, compiled"),  # one operator, by parts without a choice
    ):
        task = Task(line, training)
        worker.reference(task, path)
        assert worker.prepare(peer, task) == chosen
        assert worker.check(path)["error"] < 1e-6


def test_a_wrong_result_is_not_timed(tmp_path):
    task, path = Task(SMALL[1]), str(tmp_path / "reference.pt")
    worker = _Worker()
    worker.prepare(Peer("eager", "ready-made", "eager"), task)
    torch.save([reference(task)[0] + 1e-2], path)
    with pytest.raises(ArithmeticError, match="wrong by .* of the result's size"):
        worker.check(path)
    torch.save([torch.ones(1, 2, 9, 10)], path)
    with pytest.raises(ArithmeticError, match=r"of shape \(1, 2, 8, 10\), not \(1, 2, 9, 10\)"):
        worker.check(path)


class Scripted:
    """Workers that answer at once with seconds that were settled beforehand."""

    def __init__(self, seconds, broken=()):
        self.seconds, self.broken, self.pending = seconds, broken, {}

    def start(self, name, command, *arguments):
        self.pending[name] = command

    def answer(self, name):
        command = self.pending.pop(name)
        if name in self.broken and command == self.broken[name]:
            raise RuntimeError(f"broken in {command}")
        return {
            "prepare": None,
            "check": {"error": 1e-7, "largest": 1e-6, "seconds": self.seconds.get(name, 0.0)},
            "turn": self.seconds.get(name, 1.0),
            "memory": 1000,
        }.get(command)

    def ask(self, name, command, *arguments):
        self.start(name, command, *arguments)
        return self.answer(name)


@pytest.mark.parametrize(("budget", "rounds"), [(60.0, 40), (0.0, 5)])
def test_rounds_end_with_the_budget_and_go_on_without_slow_peers(budget, rounds, monkeypatch):
    monkeypatch.setattr(runner, "condensed", lambda peers: peers)
    monkeypatch.setattr(runner, "_PAUSE", 0)
    seconds = dict.fromkeys(names(Task(SMALL[0])), 0.001) | {"openvino": 0.1, "gemm": 0.2}
    result = runner.measure(Scripted(seconds), Task(SMALL[0]), seconds=budget)
    found = {name: len(peer["seconds"]) for name, peer in result["peers"].items()}
    assert found.pop("openvino") == 3
    assert set(found.values()) == {rounds}  # the limits go on, however slow


def test_who_fails_is_named_and_the_others_go_on():
    seconds = dict.fromkeys(names(Task(SMALL[0])), 0.001)
    broken = {"openvino": "prepare", "compile": "check"}
    result = runner.measure(Scripted(seconds, broken), Task(SMALL[0]), seconds=0.0)
    assert result["failed"] == {"openvino": "broken in prepare", "compile": "broken in check"}
    assert result["peers"].keys().isdisjoint(broken)
    assert {"eager", "halfstride"} <= result["peers"].keys()


def test_who_measures_to_decide_is_prepared_alone():
    task = Task(MODELS[0].name)
    together, *alone = runner._prepared_together(peers_for(task), task)
    assert [[peer.name for peer in group] for group in alone] == [["halfstride channels_last"], ["halfstride"]]
    assert {"eager", "compile", "halfstride compile"} <= {peer.name for peer in together}
    task = Task(SMALL[0])
    assert runner._prepared_together(peers_for(task), task) == [peers_for(task)]


def result(**changes):
    times = {
        "eager": ("ready-made", "eager", [4.0, 6.0, 8.0]),
        "eager channels_last": ("ready-made", "eager", [3.0, 3.0, 3.0, 9.0]),
        "folded by hand": ("by hand", "folded", [1.0, 1.0, 1.0]),
        "halfstride": ("halfstride", "auto", [2.0, 1.0, 4.0]),
        "halfstride compile": ("halfstride", "auto", [5.0, 5.0, 5.0]),
        "halfstride phases": ("halfstride", "phases", [1.0, 1.0, 1.0]),
        "gemm": ("limit", "gemm", [0.25, 0.25, 0.5]),
        "copy": ("limit", "copy", [0.75, 0.75, 0.75]),
    }
    peers = {
        name: {"kind": kind, "how": how, "seconds": seconds, "error": 2e-7, "memory": 3 << 20}
        for name, (kind, how, seconds) in times.items()
    }
    peers["halfstride"] |= {"chosen": "by_parts", "memory": 1 << 20}
    facts = {"name": SMALL[1], "tags": ["resize"], "products": 200, "gemm_products": 100, "bytes": 9, "failed": {}}
    return {**facts, "peers": report.condensed(peers), **changes}


def run_of(*rows, training=False):
    return {
        "title": "Layers",
        "command": "python -m benchmarks layers",
        "machine": {"processor": "CPU", "capability": "AVX2", "cores": 2, "accelerator": "", "system": "Linux"},
        "versions": {"torch": "2.13.0"},
        "settings": {"threads": 2, "dtype": "float32", "training": training},
        "rows": list(rows),
    }


def test_results_keep_medians_and_quartiles():
    eager = result()["peers"]["eager"]
    assert eager == {
        "kind": "ready-made",
        "how": "eager",
        "seconds": [5.0, 6.0, 7.0],
        # 4/2, 6/1, 8/4, of the same rounds: not the quotient of the medians, 6/2
        "ratio": [2.0, 2.0, 4.0],
        "error": 2e-7,
        "memory": 3 << 20,
    }
    alone = report.condensed({"eager": {"kind": "ready-made", "how": "eager", "seconds": [1.0]}})
    assert alone == {"eager": {"kind": "ready-made", "how": "eager", "seconds": [1.0, 1.0, 1.0]}}


def test_a_table_shows_losses_among_the_wins():
    page = report.markdown(run_of(result()))
    line = next(line for line in page.splitlines() if line.startswith(f"| {SMALL[1]} | eager channels_last"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1:6] == ["eager channels_last", "3000", "by_parts", "2000", "1.50 [1.12, 2.25]"]
    assert cells[6:] == ["**0.50 [0.38, 0.75]**", "750", "38%"]
    assert "- resize: geometric mean 1.50, least 1.50, most 1.50; 0 of 1 rows lost" in page
    assert "2 threads, CPU (AVX2, 2 cores), Linux; torch 2.13.0." in page


def test_a_training_table_shows_memory_against_the_thriftier_eager_layout():
    page = report.markdown(run_of(result(), training=True))
    assert next(line for line in page.splitlines() if line.startswith(f"| {SMALL[1]} |")).endswith("| 0.33 |")
    assert f"| {SMALL[1]} | 3.0 | 3.0 | 3.0 | 1.0 | 3.0 | 3.0 |" in page


def test_who_could_not_stands_there_once():
    rows = [result(failed={"openvino": "TypeError: no"}), result(failed={"openvino": "TypeError: no"})]
    assert f"- openvino: TypeError: no ({SMALL[1]}; {SMALL[1]})" in report.markdown(run_of(*rows))


def test_a_models_table_says_what_share_upsampling_has():
    peers = {name: {**peer, "largest": 1e-6} for name, peer in result()["peers"].items() if peer["kind"] != "limit"}
    row = {"name": "net", "tags": [], "upsampling_share": 0.25, "failed": {}, "peers": peers}
    page = report.markdown(run_of(row))
    line = next(line for line in page.splitlines() if line.startswith("| net | 6000"))
    assert "| 25% | 1.33 | 1.0e-06 | 1.0e-06 |" in line


@pytest.mark.parametrize("path", sorted(RESULTS.rglob("*.md")), ids=lambda path: str(path.relative_to(RESULTS)))
def test_committed_tables_are_those_of_the_committed_results(path):
    markdown = {"quality": quality_report.markdown, "zoo": zoo.markdown}.get(path.stem, report.markdown)
    assert path.read_text() == markdown(json.loads(path.with_suffix(".json").read_text()))


def test_the_tables_are_made_again_beside_the_results_of_other_scripts(tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(RESULTS, tmp_path / "results")
    (folder / "layers.md").unlink()
    monkeypatch.setattr(command, "RESULTS", folder)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "report"])
    command.main()
    assert (folder / "layers.md").read_text() == (RESULTS / "layers.md").read_text()
    assert {path.name: path.read_bytes() for path in folder.glob("*.md")} == {
        path.name: path.read_bytes() for path in RESULTS.glob("*.md")
    }
    assert "resize 1x512x32x32" in capsys.readouterr().out


def test_accuracy_compares_output_and_gradients_in_either_memory_format_with_float64():
    measured = list(accuracy.compared(parse("resize 2x8x5x6 -> 4 k3 s2", "training")))
    results = ("output", "gradient of the input", "gradient of the weight", "gradient of the bias")
    found = [(each["memory_format"], each["result"]) for each in measured]
    assert found == list(product(("contiguous", "channels_last"), results))
    assert all(0 < each[who] < 1e-5 for each in measured for who in ("direct", "ours"))
    told = accuracy.summary([{**measured[0], "direct": 1e-7, "ours": ours} for ours in (2e-7, 5e-8)])
    assert told.startswith("2 results, 1.00 times the error of torch's definition (geometric mean); 1 above 1")
    assert "the largest 2.00 (2e-07; resize 2x8x5x6 -> 4 k3 s2, output, contiguous)" in told


def test_accuracy_says_where_a_result_is_wrong(monkeypatch):
    exact = accuracy.reference
    monkeypatch.setattr(accuracy, "reference", lambda task: [2 * result for result in exact(task)])
    (output,) = accuracy.compared(parse("transposed 2x8x5 -> 4 k4 s2 p1"))
    assert output["direct"] == output["ours"] == pytest.approx(0.5)
