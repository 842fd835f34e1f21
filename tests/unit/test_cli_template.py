"""Go templates behind `--format`."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.cli.template import TemplateError, compile_template

VALUE = {"Name": "front", "Up": True, "Count": 3, "Labels": {"b": "2", "a": "1"}, "Parts": ["x", "y"], "None": None}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("plain }} text", "plain }} text"),
        ("{{.Name}}/{{ .Count }}", "front/3"),
        ("{{.Up}} {{.Labels}} {{.Parts}} {{.None}}", "true map[a:1 b:2] [x y] <no value>"),
        ("{{.Labels.zz}} {{.None.deeper}}", "<no value> <no value>"),
        ("{{range .Parts}}[{{.}}]{{else}}none{{end}}", "[x][y]"),
        ("{{range .None}}[{{.}}]{{else}}none{{end}}", "none"),
        ("{{range $i, $x := .Parts}}{{$i}}{{$x}}{{$.Count}} {{end}}", "0x3 1y3 "),
        ("{{range $key, $value := .Labels}}{{$key}}={{$value}},{{end}}", "a=1,b=2,"),
        ("{{if .None}}a{{else if .Up}}b{{else}}c{{end}}", "b"),
        ("{{if and .Up (eq .Count 1 3)}}yes{{end}}", "yes"),
        ("{{with $x := .Labels}}{{$x.a}}{{.b}}{{end}}", "12"),
        ("{{$x := .Count}}{{if gt $x 2}}{{$x}}{{end}}", "3"),
        ("a  {{- .Count -}}  b{{/* }} */}}c", "a3bc"),
        ('{{index .Labels "a"}}{{index .Parts 1}}{{len .Parts}}', "1y2"),
        ("{{json .Parts}} {{json .Labels.a}}", '["x","y"] "1"'),
        ('{{join .Parts ", " | printf "<%s>" | upper}}', "<X, Y>"),
        ('{{printf "%5d|%-4s|%q|%v|%.1f|%%" .Count "ab" .Name .Parts 2.25}}', '    3|ab  |"front"|[x y]|2.2|%'),
        ('{{"}}"}}{{`raw"`}}{{"tab\\t"}}', '}}raw"tab\t'),
    ],
)
def test_a_template_means_what_it_means_in_go(source: str, expected: str) -> None:
    """People copy their templates from scripts for Docker."""
    assert compile_template(source)(VALUE) == expected


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("{{.Nmae}}", ".Name"),
        ("{{.Name", "unclosed"),
        ("{{nosuch .}}", "nosuch"),
        ("{{if .Up}}x", "end"),
        ("x{{end}}", "end"),
        ("{{else}}", "else"),
        ("{{.Name.First}}", "First"),
        ("{{index .Parts 5}}", "range"),
        ("{{.Name 1}}", "non-function"),
        ("{{(.Name}}", "unexpected"),
        ("{{}}", "unexpected"),
        ("{{$y}}", "$y"),
        ("{{join .Count}}", "join"),
        ('{{printf "%d" .Name}}', "%d"),
        ("{{range .Count}}{{end}}", "3"),
        ("{{lt .Count .Name}}", "compare"),
        ("{{.Name ~}}", "~"),
        ("{{template .}}", "template"),
    ],
)
def test_what_a_template_cannot_do_is_said(source: str, word: str) -> None:
    """A part of the language that is quietly wrong would be worse than none."""
    with pytest.raises(TemplateError, match="template parsing error") as raised:
        compile_template(source)(VALUE)

    assert word in str(raised.value)


@given(st.text(alphabet='{}.-$ |()"`ab1:=,/*\\%', max_size=30) | st.text(max_size=30))
def test_no_template_makes_a_traceback(source: str) -> None:
    """Whatever is typed, the answer is text or a sentence."""
    with contextlib.suppress(TemplateError):
        assert isinstance(compile_template(source)(VALUE), str)


@given(
    st.lists(
        st.sampled_from(["{{if .Up}}", "{{end}}", "{{else}}", "{{range .Parts}}", "{{.}}", "x", "{{else if .None}}"])
    )
)
def test_no_nesting_makes_a_traceback(pieces: list[str]) -> None:
    """Blocks are closed too often, or not at all, more easily than one thinks."""
    with contextlib.suppress(TemplateError):
        assert isinstance(compile_template("".join(pieces))(VALUE), str)
