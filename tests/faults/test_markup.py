"""Names that a user chose are text in every page and picture, never markup."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_jarzynski import (
    AnnealedSMC,
    plot_mode_masses,
    save_figure,
    write_inference_report,
)
from tests.command_line import call
from tests.report.test_html import Page

EVIL = "<script>alert(1)</script>"
# Text that matplotlib would take for mathematics, and that is none.
DOLLARS = r"$\frac{$"
SOURCE = f"""
import pyro
import pyro.distributions as dist


def model(y):
    m = pyro.sample("{EVIL}", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)
"""


def assert_harmless(text):
    page = Page(text)
    assert "<script" not in text
    assert not page.named("script")
    assert EVIL in "".join(page.words)


def test_names_of_sites_in_a_report(tmp_path):
    def model():
        m = pyro.sample(EVIL, dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample(DOLLARS, dist.Normal(m[0], 1.0), obs=torch.tensor(1.0))

    result = AnnealedSMC(model, num_walkers=32, num_chains=2, progress=False).run()
    path = write_inference_report(
        tmp_path, result, title=EVIL, settings={EVIL: DOLLARS, DOLLARS: EVIL}
    )
    text = path.read_text(encoding="utf-8")
    assert_harmless(text)
    assert f"{EVIL}[1]" in "".join(Page(text).words)


@pytest.mark.filterwarnings("ignore:arviz.nc is not written")
def test_names_of_sites_files_and_folders_on_the_command_line(tmp_path):
    folder = tmp_path / "<img src=x onerror=alert(1)>"
    folder.mkdir()
    (folder / "model.py").write_text(SOURCE)
    (folder / "data.json").write_text('{"y": [1.0, 2.0]}')
    answer = call(
        "infer",
        f"{folder / 'model.py'}:model",
        *("--data", folder / "data.json", "--walkers", 64, "--out", folder / "out"),
    )
    assert answer.code == 0, answer.error
    text = (folder / "out" / "report.html").read_text(encoding="utf-8")
    assert_harmless(text)
    assert len(Page(text).named("img")) == 4
    assert all(image["src"].startswith("data:") for image in Page(text).named("img"))


@pytest.mark.parametrize("name", [EVIL, "$x$", "5 $", "100 %", "a_b^c", "\\"])
def test_names_of_modes_in_a_picture(tmp_path, name):
    axes = plot_mode_masses(torch.tensor([0.4, 0.6]), labels=[name, "other"])
    save_figure(axes, tmp_path / "picture.png")
