"""Printed reports in a notebook."""

import torch
from torch import nn

import halfstride
from halfstride._support.printed import Printed


def test_a_notebook_shows_the_table_and_no_markup_of_it():
    class Table(Printed):
        def __str__(self) -> str:
            return "a < b\nc & d"

    assert Table()._repr_html_() == "<pre>a &lt; b\nc &amp; d</pre>"


def test_reports_that_are_printed_as_tables_show_themselves():
    model = nn.Sequential(nn.ConvTranspose2d(2, 1, 3, stride=2))
    inputs = torch.randn(4, 2, 8, 8)
    cured, cure_report = halfstride.cure(model, inputs, steps=0)
    _, report = halfstride.optimize(cured, inputs)
    image = halfstride.diagnose_image(torch.rand(32, 32))
    for shown in (cure_report, cure_report.before, image, report):
        assert str(shown).splitlines()[0] in shown._repr_html_()
