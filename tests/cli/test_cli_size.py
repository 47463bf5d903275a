"""The command line: what every command shares, and `halfstride size`."""

import os
import re
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

import halfstride
from halfstride import cli, geometry
from halfstride._core.planner import explain


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch):
    for name in ("FORCE_COLOR", "NO_COLOR", "COLUMNS", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


def output(line: str, **env: str) -> str:
    """What a command prints that is expected to succeed."""
    result = CliRunner(env=env).invoke(cli.app, line.split())
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return result.stdout


def without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.fixture
def failure(capsys):
    """Run a command that is expected to fail: its exit code and what it says on stderr, nothing being on stdout."""

    def run(line: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stopped:
            cli.main(line.split())
        out, err = capsys.readouterr()
        assert out == ""
        return stopped.value.code, err

    return run


# Every command --------------------------------------------------------------------------------------------------------
def test_version():
    assert output("--version") == f"halfstride {halfstride.__version__}\n"


@pytest.mark.parametrize("line", ["", "size"])
def test_without_a_command_comes_the_help(line, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(line.split())
    out, err = capsys.readouterr()
    assert stopped.value.code == 2
    assert "Usage: halfstride" in out
    assert err == ""


def test_a_value_out_of_range_is_one_line(failure):
    assert failure("size conv -n 5 -k 0") == (1, "error: `--kernel` (=0) must be at least 1.\n")
    assert failure("size transposed -n 5 -k 3 -o 1")[1].startswith("error: `--output-padding` (=1) must be less than")
    assert failure("size conv -n 5x5 -k 3x3x3")[1].startswith("error: `--kernel` (=(3, 3, 3)) has 3 axes where")
    text = "error: 2 axes do not go with 3: give one number for all axes, or one for each.\n"
    assert failure("size solve --from 3x4 --to 3x4x5") == (1, text)


@pytest.mark.parametrize("number", ["2.5", "three", "", "3x", "1e3", "inf", "9" * 5000])
def test_what_is_no_whole_number_is_wrong_usage(number, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["size", "conv", "--input", number, "--kernel", "3"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == (
        f"error: Invalid value for '--input' / '-n': {number!r} is not a whole number, or one for each axis such as "
        "28x27. Try 'halfstride size conv --help'.\n"
    )


def test_a_wrong_name_gets_a_suggestion(failure):
    assert failure("siez") == (2, "error: No such command 'siez'. Did you mean 'size'? Try 'halfstride --help'.\n")
    assert failure("size slove --from 1 --to 2") == (
        2,
        "error: No such command 'slove'. Did you mean 'solve'? Try 'halfstride size --help'.\n",
    )
    code, text = failure("size solve --form 7 --to 14")
    assert code == 2
    assert re.fullmatch(r"error: No such option: --form .*--from.* Try 'halfstride size solve --help'.\n", text)
    assert failure("size solve --from 7") == (2, "error: Missing option '--to'. Try 'halfstride size solve --help'.\n")


@pytest.mark.parametrize(
    "line", ["--debug size conv -n 5 -k 0", "size --debug conv -n 5 -k 0", "size conv -n 5 -k 0 --debug"]
)
def test_debug_shows_the_traceback_wherever_it_stands(line):
    with pytest.raises(ValueError, match="`kernel_size`"):
        cli.main(line.split())


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (
            FileNotFoundError(2, "No such file or directory", "a b.png"),
            1,
            "error: a b.png: No such file or directory\n",
        ),
        (OSError(28, "No space left on device"), 1, "error: [Errno 28] No space left on device\n"),
        (ValueError("two\n  lines"), 1, "error: two lines\n"),
        (ValueError(), 1, "error: ValueError\n"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(32, "Broken pipe"), 1, ""),
    ],
)
def test_errors_of_a_command(error, code, text, failure, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr(geometry, "solve", fail)
    assert failure("size solve --from 1 --to 2") == (code, text)


def test_other_errors_are_ours_and_keep_their_traceback(monkeypatch):
    monkeypatch.setattr(geometry, "solve", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["size", "solve", "--from", "1", "--to", "2"])


def run(*arguments: str, **options) -> subprocess.CompletedProcess:
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", ""), **options.pop("env", {})}
    return subprocess.run([sys.executable, *arguments], env=env, text=True, stderr=subprocess.PIPE, **options)


def test_as_a_process():
    done = run("-m", "halfstride", "size", "transposed", "--input", "2", "--kernel", "3", stdout=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "Transposed convolution: 2 -> 4"
    failed = run("-m", "halfstride", "size", "conv", "-n", "1", "-k", "2", stdout=subprocess.PIPE)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr == (
        "error: `--kernel` (=2) is larger than the padded input (=1): "
        "use a smaller kernel or a padding of at least 1.\n"
    )
    debugged = run("-m", "halfstride", "size", "conv", "-n", "1", "-k", "2", "--debug", stdout=subprocess.PIPE)
    assert debugged.returncode == 1
    assert debugged.stderr.startswith("Traceback (most recent call last):\n")


@pytest.mark.parametrize(
    "code",
    [
        "from halfstride import cli; cli.main(['size', 'solve', '--from', '7', '--to', '14'])",
        # What a command prints without rich waits in Python's buffer.
        "from halfstride import cli; cli.app.command('say')(lambda: print('word')); cli.main(['say'])",
    ],
)
def test_a_reader_that_has_gone_is_no_error(code):
    reader, writer = os.pipe()
    os.close(reader)
    done = run("-c", code, stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_terminal_that_knows_only_ascii():
    env = {"PYTHONIOENCODING": "ascii"}
    for line in ("size --help", "size solve --from 7 --to 14", "size conv -n 5 -k 3"):
        done = run("-m", "halfstride", *line.split(), env=env, stdout=subprocess.PIPE)
        assert (done.returncode, done.stderr) == (0, "")


def test_the_help_waits_for_no_heavy_import():
    heavy = {"torch", "numpy", "matplotlib", "datasets", "accelerate", "PIL"}
    code = f"import sys, halfstride.cli; print(*sorted({heavy} & set(sys.modules)))"
    assert run("-c", code, stdout=subprocess.PIPE).stdout.split() == []


@pytest.mark.parametrize("group", ["", "size", "size conv", "size transposed", "size resize", "size solve"])
def test_the_examples_in_the_help_run(group):
    shown = without_colours(output(f"{group} --help"))
    assert max(map(len, shown.splitlines())) <= 80
    examples = [line.strip() for line in shown.splitlines() if line.strip().startswith("halfstride size")]
    assert examples or not group
    for example in examples:
        assert output(example.removeprefix("halfstride "))


# halfstride size ------------------------------------------------------------------------------------------------------
def test_the_lecture_s_slide():
    assert output("size transposed --input 2 --kernel 3 --stride 2") == (
        "Transposed convolution: 2 -> 5\n"
        "  o = s(n - 1) + k - 2p\n"
        "    = 2*(2 - 1) + 3 - 2*0\n"
        "    = 2 + 3 - 0\n"
        "    = 5\n"
        "\n"
        "coverage     uneven: stride 2 does not divide kernel 3\n"
        "             1 1 2 1 1\n"
        "convolution  5, 6 -> 2\n"
        "transposed   2 -> 5, 2 -> 6 with output_padding=1\n"
        "\n"
        "torch.nn.ConvTranspose2d(in_channels, out_channels, kernel_size=3, stride=2)\n"
    )


def test_dilation_output_padding_and_uneven_gradients():
    text = output("size transposed -n 3 -k 3 -s 2 -d 4 -p 1 -o 3")
    assert "  o = s(n - 1) + d(k - 1) + 1 - 2p + op\n    = 2*(3 - 1) + 4*(3 - 1) + 1 - 2*1 + 3\n" in text
    assert "coverage     uneven: stride 2 and dilation 4 have a common divisor\n" in text
    assert "convolution  none leads back to 3: output_padding 3 is not less than stride 2\n" in text
    text = output("size conv -n 9x6 -k 3x4 -s 3x2 -d 2x1")
    assert "  o = floor((n + 2p - d(k - 1) - 1) / s) + 1\n    = floor((9 + 2*0 - 2*(3 - 1) - 1) / 3) + 1\n" in text
    assert "coverage     even, no checkerboard in the gradient from overlap\n" in text
    text = output("size conv -n 5 -k 3 -s 2 -p 1")
    assert "coverage     uneven in the gradient: stride 2 does not divide kernel 3\n             1 2 1 2 1\n" in text


def test_many_sizes_and_small_ones():
    assert "convolution  53, ..., 65 -> 5\ntransposed   5 -> 53, ..., 5 -> 65 with output_padding=12\n" in output(
        "size transposed -n 5 -k 13 -s 13 -p 6"
    )
    # Padding so large that the smallest input of the formula would be 0.
    assert "convolution  1 -> 1\ntransposed   1 -> 1 with output_padding=1\n" in output("size conv -n 1 -k 2 -s 2 -p 1")


def test_solve():
    assert output("size solve --from 7 --to 14") == (
        "Transposed convolution: 7 -> 14\n"
        "kernel_size  stride  padding  output_padding  overlap\n"
        "          2       2        0               0  even: no checkerboard\n"
        "          4       2        1               0  even: no checkerboard\n"
        "          6       2        2               0  even: no checkerboard\n"
        "          3       2        1               1  uneven\n"
        "          5       2        2               1  uneven\n"
        "          7       2        3               1  uneven\n"
        "\n"
        "torch.nn.ConvTranspose2d(in_channels, out_channels, kernel_size=2, stride=2)\n"
    )
    assert "Convolution: 5 -> 3\nkernel_size  stride  padding  overlap\n" in output("size solve --from 5 --to 3")


def test_solve_with_axes_that_differ():
    assert output("size solve --from 14x5 --to 7x5").endswith(
        "torch.nn.Conv2d(in_channels, out_channels, kernel_size=(2, 1), stride=(2, 1))\n"
    )
    assert output("size solve --from 7x5x5 --to 14x5x10").endswith(
        "torch.nn.ConvTranspose3d(in_channels, out_channels, kernel_size=(2, 1, 2), stride=(2, 1, 2))\n"
    )
    assert output("size solve --from 7x5 --to 14x3").endswith(
        "\n\nNo single layer makes one axis larger and another smaller: take two.\n"
    )
    four = output("size solve --from 7x7x7x7 --to 14")
    assert four.count("Transposed convolution: 7 -> 14") == 4
    assert "torch" not in four  # it has no four-dimensional layer


def test_resize():
    assert output("size resize --input 14 --kernel 3") == (
        "Resize-convolution: 14 -> 28\n"
        "  o = s*n\n"
        "    = 2*14\n"
        "    = 28\n"
        "\n"
        "No checkerboard from overlap: every phase sums the whole kernel.\n"
        "\n"
        "halfstride.ResizeConv2d(in_channels, out_channels, kernel_size=3, scale_factor=2)\n"
    )
    text = output("size resize -n 14x7 -k 4 -s 2x3 -p 1 -d 2")
    assert text.count("  o = s*n + 2p - d(k - 1)\n") == 2
    assert "kernel_size=4, scale_factor=(2, 3), padding=1, dilation=2)\n" in text


@pytest.mark.parametrize(
    ("line", "plan"),
    [
        ("size resize -n 14 -k 3", explain("resize", (1, 64, 14, 14), (64, 64, 3, 3), scale_factor=2)),
        ("size resize -n 5x4x3 -k 3x2x1 -s 3 -p 2 -d 2 --channels 8x6",
            explain("resize", (1, 8, 5, 4, 3), (6, 8, 3, 2, 1), scale_factor=3, padding=2, dilation=2)),
        ("size transposed -n 14x7 -k 3 -s 2 -p 1 -o 0x1 --channels 16x32",
            explain("transposed", (1, 16, 14, 7), (16, 32, 3, 3), stride=2, padding=1, output_padding=(0, 1))),
    ],
)  # fmt: skip
def test_explain_shows_the_plan(line, plan):
    text = output(f"{line} --explain")
    assert text.startswith(output(line))
    assert text.endswith(f"\nChosen: {plan.algorithm}; {plan.reason}.\n")
    case = plan.case
    size = "x".join(map(str, case.input_size))
    assert f"\nOne image of {size}, {case.in_channels} channels to {case.out_channels}, in float32:\n" in text
    for candidate in plan.candidates:
        if candidate.unsupported_reason is None:
            row = rf" *{candidate.macs:,}  +{candidate.bytes:,}  {candidate.algorithm}"
        else:
            row = rf" +-  +-  {candidate.algorithm}: {re.escape(candidate.unsupported_reason)}"
        assert re.search(rf"^{row}$", text, re.MULTILINE)


def test_explain_refuses_what_nobody_computes(failure):
    refusal = (
        "error: `--explain` is for layers that can be computed: use at most 3 axes, and numbers of at most 100000.\n"
    )
    for line in ("resize -n 2 -k 3 -s 100001", "resize -n 2x2x2x2 -k 3", f"transposed -n 2 -k {10**30}"):
        assert failure(f"size {line} --explain") == (1, refusal)
        assert output(f"size {line}")
    for channels in ("0", "-1", "3x", "1x2x3", "64x0"):
        code, text = failure(f"size resize -n 2 -k 3 --explain --channels {channels}")
        assert code == 2
        assert text.startswith("error: Invalid value for '--channels': ")
    assert failure("size resize -n 2 -k 3 -p valid")[1].startswith(
        "error: Invalid value for '--padding' / '-p': 'valid' is not"
    )
    assert failure("size resize -n 2 -k 3 -s 0") == (1, "error: `--scale` (=0) must be at least 1.\n")


LINES = [
    "size transposed -n 2 -k 3 -s 2",
    "size transposed -n 7x6 -k 4x3 -s 2x3 -p 1x0 -o 1 -d 2x1",
    "size transposed -n 3x2x4 -k 2 -s 3 -o 2x1x0",
    "size conv -n 28 -k 3 -s 2 -p 1",
    "size conv -n 28x27 -k 5x4 -s 3x1 -p 2x0 -d 1x2",
    "size conv -n 9x8x7 -k 3",
    "size resize -n 7 -k 4 -s 3 -p 0",
    "size resize -n 7x5x3 -k 3x4x5 -s 2x3x1 -p 2 -d 1x2x1",
]


@pytest.mark.parametrize("line", LINES)
def test_every_step_of_a_formula_has_the_same_value_and_torch_agrees(line):
    text = output(line)
    sizes = []
    for axis in text.split("onvolution: ")[1:]:
        n, o = map(int, axis.splitlines()[0].split(" -> "))
        sizes.append((n, o))
        steps = re.findall(r"^    = (.*)$", axis, re.MULTILINE)
        assert len(steps) >= 3
        for step in steps:
            assert eval(step, {"floor": int}) == o
    names = {"torch": torch, "halfstride": halfstride, "in_channels": 1, "out_channels": 1}
    layer = eval(text.splitlines()[-1], names)
    if len(sizes) == 1:
        sizes = sizes * 2
    returned = layer(torch.zeros(1, 1, *(n for n, _ in sizes)))
    assert tuple(returned.shape[2:]) == tuple(o for _, o in sizes)


@pytest.mark.parametrize(
    ("n", "m"), [("7", "14"), ("28x27", "14"), ("13", "1"), ("1x1x1", "4x5x6"), ("5", "64"), ("9", "9")]
)
def test_the_line_of_solve_does_what_it_says(n, m):
    line = output(f"size solve --from {n} --to {m}").splitlines()[-1]
    layer = eval(line, {"torch": torch, "in_channels": 1, "out_channels": 1})
    n, m = ([int(size) for size in sizes.split("x")] for sizes in (n, m))
    dimensions = max(len(n), len(m), 2)
    (n, m) = (sizes * dimensions if len(sizes) == 1 else sizes for sizes in (n, m))
    assert list(layer(torch.zeros(1, 1, *n)).shape[2:]) == m


@pytest.mark.parametrize("line", [*LINES, "size solve --from 7 --to 14"])
def test_in_colour_and_in_a_narrow_terminal_the_text_is_the_same(line):
    plain = output(line)
    assert max(map(len, plain.splitlines()[:-1])) <= 80  # the line of PyTorch may be long, and is not broken
    assert "\x1b[" not in plain
    coloured = output(line, FORCE_COLOR="1")
    assert "\x1b[" in coloured
    assert without_colours(coloured) == plain
    narrow = output(line, COLUMNS="30")
    rows = re.compile(r"^ {13}[\d ]+\n", re.MULTILINE)  # coverage, shown where it fits
    assert rows.sub("", narrow) == rows.sub("", plain)


def test_huge_numbers_are_answered_and_no_row_of_them_is_made():
    huge = 10**30
    assert f"    = {2 * huge + 1}\n" in output(f"size transposed -n {huge} -k 3 -s 2")
    assert "coverage     even" in output(f"size conv -n {huge} -k {huge} -p {huge // 2}")
    assert f"convolution  1, ..., {huge} -> 1\n" in output(f"size conv -n 5 -k 1 -s {huge}")
    assert f"Transposed convolution: 3 -> {huge}\n" in output(f"size solve --from 3 --to {huge}")
    assert f"Transposed convolution: 2 -> {huge + 1}\n" in output(f"size transposed -n 2 -k 1 -s {huge}")
