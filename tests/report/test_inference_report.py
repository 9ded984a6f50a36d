"""The report of an inference run says what the result says."""

import pytest

from pyro_jarzynski.errors import OutputError
from pyro_jarzynski.report.inference_report import MOST_LATENTS, write_inference_report
from tests.report.runs import (
    DATA,
    annealed,
    exact_run,
    mean_of_normal,
    mixture_run,
    partial_run,
    stream_run,
)
from tests.report.test_html import Page

PICTURES = ["annealing.png", "evidence.png", "weights.png", "genealogy.png"]


def report(folder, result, **arguments):
    usual = {"title": "A run", "settings": {"seed": "7"}}
    path = write_inference_report(folder, result, **(usual | arguments))
    assert path == folder / "report.html"
    text = path.read_text(encoding="utf-8")
    return text, "".join(Page(text).words)


def test_summary_is_that_of_the_result(tmp_path):
    result = mixture_run()
    text, words = report(tmp_path, result)
    low, high = result.log_evidence_interval()
    for wanted in (
        f"{result.log_evidence:.3f} ± {result.log_evidence_error:.3f} nats",
        f"{low:.3f} to {high:.3f} nats",
        "64 on each of 2 islands",
        "torch",
        f"{result.num_gradients:,}",
    ):
        assert wanted in words
    assert "<title>A run</title>" in text
    assert '<tr><th scope="row">seed</th><td>7</td></tr>' in text


def test_pictures_are_saved_and_embedded(tmp_path):
    text, _ = report(tmp_path, mixture_run())
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted([*PICTURES, "report.html"])
    assert len(Page(text).named("img")) == 4
    assert all((tmp_path / name).stat().st_size < 200_000 for name in PICTURES)


def test_doubts_are_warnings(tmp_path):
    ladder = {"schedule": [k / 20 for k in range(21)], "adapt": "off"}
    few = annealed(mean_of_normal, DATA, num_walkers=4, num_chains=1, **ladder)
    assert few.doubts
    text, words = report(tmp_path, few)
    assert text.count('<p class="warning">') == len(few.doubts)
    assert all(doubt in words for doubt in few.doubts)
    assert "doubtful" in words


def test_partial_run_says_how_far_it_went(tmp_path):
    result = partial_run()
    _, words = report(tmp_path, result)
    beta = float(result.history["beta"][-1])
    assert f"The run ended at inverse temperature {beta:.3g}" in words
    assert "partial" in words


def test_latents_and_history_are_tables(tmp_path):
    result = stream_run()
    text, _ = report(tmp_path, result)
    mean = result.summary().table.loc["x", "mean"]
    assert f"<tr><td>x</td><td>{mean:.5g}</td>" in text
    stages = len(result.history["beta"])
    assert f"All {stages} rows." in text
    assert f"<td>{result.log_evidence:.5g}</td>" in text
    ess = float(result.history["ess"][-1].mean())
    assert f"<td>{ess:.5g}</td>" in text
    # The last of the data, and the number of the last stage.
    assert f"<tr><td>{stages - 1}</td><td>1</td><td>8</td>" in text
    for name in result.history:
        assert f"<code>{name}</code>" in text


def test_many_latents_are_cut(tmp_path, monkeypatch):
    monkeypatch.setattr("pyro_jarzynski.report.inference_report.MOST_LATENTS", 1)
    text, _ = report(tmp_path, mixture_run())
    assert "The first 1 of 2 rows." in text
    assert "x[0]" in text
    assert "x[1]" not in text
    assert MOST_LATENTS > 1


def test_model_without_latents_has_no_pictures(tmp_path):
    result = exact_run()
    text, words = report(tmp_path, result)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert f"{result.log_evidence:.3f} ± 0.000 nats" in words
    assert "exact" in words
    for heading in ("Figures", "Latents", "History"):
        assert f"<h2>{heading}</h2>" not in text


def test_directory_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(OutputError, match="nowhere"):
        report(tmp_path / "nowhere", mixture_run())
