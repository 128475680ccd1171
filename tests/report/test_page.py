from __future__ import annotations

import csv
import json
import re
import shutil
from contextlib import suppress
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.browser import hovered, opened, visit, with_script
from helpers.toy_results import growing, leakage, lens_result, mitigation
from helpers.toy_runs import audit, scored

from xlmech.data.records import Record
from xlmech.figures import masked, style
from xlmech.leakage.measure import LeakageResult
from xlmech.report import page as report
from xlmech.report.page import write_report
from xlmech.report.run_results import RunResults, read_results
from xlmech.storage.integrity import HASH
from xlmech.storage.result import Provenance
from xlmech.storage.run_folder import open_run_folder

BAD = "<script>alert(1)</script>"
ODD = [
    BAD,
    "quote \" and ' and `",
    "two\nlines",
    "\U0001f47b",
    "مريم العلي",
    "</script><img src=x onerror=alert(1)>",
    "{{ 7919*7907 }}",
]


def odd() -> LeakageResult:
    """Records and everything else a person can name, named badly."""
    result = leakage({"en": [1] * len(ODD), "fr": [1] * len(ODD)}, controls={"en": [0] * 8, "fr": [0] * 8})
    private = result.probes.group == "private"
    names = result.probes.record.where(
        ~private, result.probes.record.map({f"r{i}": name for i, name in enumerate(ODD)})
    )
    where = Provenance(model=BAD, adapter=BAD, revision=BAD, command=f"xlmech {BAD}", versions={BAD: BAD}, device=BAD)
    return replace(result, probes=result.probes.assign(record=names, attribute=BAD), provenance=where)


def written(results: Any, path: Path, **options: Any) -> str:
    return write_report(results, path, **options).read_text(encoding="utf-8")


def visible(page: str) -> str:
    """A page's text without its scripts and tags."""
    return unescape(re.sub(r"<(script|style).*?</\1>|<[^>]+>", " ", page, flags=re.DOTALL))


def test_a_run_folder_makes_one_file_with_numbers_and_verdict_first(run: Path, tmp_path: Path) -> None:
    page = written(run, tmp_path / "index.html")
    assert len(page.encode()) < report.MAX_BYTES
    assert "<h1>xlmech audit of toy</h1>" in page
    text = visible(page.partition("</header>")[2])
    first = ["by chance", "These data cannot tell", "Of 4 private people", "What to do now", "Decision"]
    places = [text.index(words) for words in first]
    assert places == sorted(places) and places[-1] < 1100
    headings = re.findall(r"<h[23][^>]*>(.*?)</h", page)
    drawn = set(re.findall(r'<figure id="[^"]*">\n<h3>(.*?)</h3>', page))
    assert [heading for heading in headings if heading not in drawn] == [
        "What to do now", "Kinds of data and languages", "Where", "How sure", "What ablation reduces", "What it costs",
        "By language", "Does it leak?", "Where inside the model?", "What does ablation do?", "Records", "How it was measured",
        "What it does not show", "Versions, seeds, and how to reproduce", "Assessment",
    ]  # fmt: skip
    titles = re.findall(r'<figure id="figure-plot-([\w-]+)">', page)
    assert titles == [
        "leakage-by_language", "leakage-matrix", "lens-per_layer", "lens-lens", "neurons-per_layer", "neurons-overlap",
        "mitigation-before_after", "mitigation-cost",
    ]  # fmt: skip
    assert set(json.loads(re.search(r"const plots = (\{.*\});\n", page)[1])) == {f"plot-{name}" for name in titles}
    assert page.count('<a class="to-records" href="#records">') == len(titles) + 1  # from every figure, and the matrix
    assert all(f'id="{target}"' in page for target in set(re.findall(r'href="#([\w-]+)"', page)))
    assert "not finished" not in text and "It took 2 s (leakage 2 s)" in text
    assert [*tmp_path.glob(".*")] == []
    # The plot's own title and caption are not drawn twice.
    assert all(page.count(f"{title}</h3>") == 1 for title in drawn)


def test_a_report_in_the_run_folder_leads_to_the_single_figures(run: Path, tmp_path: Path) -> None:
    (run / "odd name.html").write_text("x", encoding="utf-8")
    page = written(run, run / "index.html")
    assert '<a href="before_after.html">before after</a>' in page and '<a href="odd%20name.html">odd name</a>' in page
    assert 'href="index.html"' not in page and "Single figures" not in written(run, tmp_path / "sent.html")
    assert "Single figures" in page and "Single figures" not in written(run, run / "index.html", hide_ids=True)


def test_the_same_results_at_hand_make_the_same_page(run: Path, tmp_path: Path) -> None:
    found = audit()
    of_folder = written(run, tmp_path / "a.html")
    of_audit = written(found, tmp_path / "b.html")
    named = {"leakage": found.leakage, "lens": found.lens, "neurons": found.neurons, "mitigation": found.mitigation}
    of_mapping = written(named, tmp_path / "c.html")
    again = "<li>This page again, in the folder that holds the run folder run: xlmech report run</li>"
    assert again in of_folder and of_folder.replace(again, "") == of_audit
    assert visible(of_mapping).split() == visible(of_audit).replace("It took 2 s (leakage 2 s).", "").split()
    assert written(run / "results", tmp_path / "d.html") == of_folder


def test_a_single_result_makes_a_page_that_says_what_is_missing(tmp_path: Path) -> None:
    result = audit().leakage
    page = written(result, tmp_path / "index.html")
    assert "not finished" not in page
    assert "Not measured: lens, location of neurons, ablation." in visible(page)
    folder = result.save(tmp_path / "leakage")
    assert "not finished" not in written(folder, tmp_path / "index.html")


@pytest.mark.parametrize("lens", [True, False])
@pytest.mark.parametrize("finished", [True, False])
def test_only_a_run_that_did_not_end_is_called_unfinished(
    run: Path, tmp_path: Path, lens: bool, finished: bool
) -> None:
    """A finished run may lack a lens, and one that was stopped in its export has all results."""
    with suppress(KeyboardInterrupt), open_run_folder(tmp_path / "own") as folder:
        shutil.copytree(run / "results", folder.path / "results")
        if not lens:
            shutil.rmtree(folder.path / "results" / "lens")
        if not finished:
            raise KeyboardInterrupt
        folder.finish()
    for path in (tmp_path / "own", tmp_path / "own" / "results"):
        page = " ".join(visible(written(path, tmp_path / "index.html")).split())
        assert ("This run is not finished. Continue it with xlmech run CONFIG --resume" in page) is not finished
        assert ("Not measured: lens." in page) is not lens


def test_a_run_that_was_stopped_before_it_had_results_is_continued(tmp_path: Path) -> None:
    with suppress(KeyboardInterrupt), open_run_folder(tmp_path / "own") as folder:
        folder.parts.mkdir()
        raise KeyboardInterrupt
    with pytest.raises(ValueError, match="own: no results to report; the run in it is not finished; continue it with"):
        read_results(tmp_path / "own")


def lines_of(results: Any, folder: Path) -> list[str]:
    """How to reproduce, as the report says it."""
    page = written(results, folder / "index.html")
    return re.findall("<li>(.*?)</li>", page[page.index('<h2 id="reproduce">') :])


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            "xlmech audit m --out runs/mine",
            "Made by: xlmech audit m --out runs/mine. Its paths are relative to the folder in which it was run.",
        ),
        ("headline.py --out /root/secret", "Made by the script headline.py."),
        ("ipykernel_launcher.py -f /root/kernel.json", "Made from Python, by no command of xlmech."),
        ("__main__.py tests", "Made from Python, by no command of xlmech."),
        ("-c", "Made from Python, by no command of xlmech."),
    ],
)
def test_how_to_reproduce_names_what_a_reader_has(command: str, said: str, tmp_path: Path) -> None:
    """Paths of the machine that measured are nothing to a reader, but the run folder is, whatever it is called by now."""
    found = audit()
    results = {
        name: replace(result, provenance=replace(result.provenance, command=command))
        for name in ("leakage", "lens", "neurons", "mitigation")
        if (result := getattr(found, name)) is not None
    }
    first = lines_of(results, tmp_path)[0]
    assert unescape(first).startswith(said) and "/root" not in first


def test_a_run_is_made_again_by_the_config_in_its_folder(run: Path, tmp_path: Path) -> None:
    (run / "config.yaml").write_text("model:\n  source: my-model\n", encoding="utf-8")
    moved = run.rename(tmp_path / "my run")
    first, second = (unescape(line) for line in lines_of(moved, tmp_path)[:2])
    assert first.startswith(
        "The run again, in the folder that holds the run folder my run: xlmech run 'my run'/config.yaml."
    )
    assert "It needs the model and the records that config.yaml names" in first
    assert second == "This page again, in the folder that holds the run folder my run: xlmech report 'my run'"
    named = [word for line in (first, second) for word in re.findall(r"'my run'[\w/]*(?:\.yaml)?", line)]
    assert len(named) == 2
    assert all((tmp_path / word.replace("'", "")).exists() for word in named)


def test_ids_are_shown_names_only_if_revealed_and_codes_where_ids_are_to_be_hidden(tmp_path: Path) -> None:
    result = audit().leakage
    page = visible(written(result, tmp_path / "index.html"))
    assert re.search(r"\br0\b", page) and masked("r0") not in page and "personal data." not in page
    hidden = written(result, tmp_path / "index.html", hide_ids=True)
    assert masked("r0") in visible(hidden) and not re.search(r"\br0\b", hidden.partition("<script>")[0])
    assert '"r0"' not in hidden.rpartition("const plots")[2]
    people = [Record(id="r0", subject="Ana Li", attribute="phone", value="+1 555 0100")]
    with pytest.warns(UserWarning, match="shows personal data"):
        page = visible(written(result, tmp_path / "index.html", reveal=True, records=people))
    assert "This file shows personal data." in page
    assert "Ana Li" in page and "+1 555 0100" in page and "not among the records given" in page
    for options, message in (
        ({"records": people}, "needs reveal=True"),
        ({"reveal": True}, "and none are given"),
        ({"reveal": True, "records": people, "hide_ids": True}, "hide_ids=True hides what reveal=True shows"),
    ):
        with pytest.raises(ValueError, match=message):
            write_report(result, tmp_path / "index.html", **options)


@pytest.mark.parametrize("hide_ids", [True, False])
def test_no_id_of_a_person_is_anywhere_in_the_file(run: Path, tmp_path: Path, hide_ids: bool) -> None:
    page = written(run, tmp_path / "index.html", hide_ids=hide_ids).rpartition("const plots")
    found = audit()
    ids = {*found.leakage.probes.subject, *found.leakage.probes.probe, *found.lens.readings.probe}
    if hide_ids:
        ids |= {*found.leakage.probes.record}
        assert masked("r0") in page[2]
    else:
        assert "likeliest: record r0 (" in page[2]
    assert not ids & set(re.split(r"\W+", visible(page[0]) + page[2]))


def test_every_string_is_escaped(tmp_path: Path) -> None:
    people = [Record(id=name, subject=name, attribute="phone", value=name) for name in ODD]
    results = {"leakage": odd(), BAD: lens_result()}
    with pytest.warns(UserWarning, match="shows personal data"):
        page = written(results, tmp_path / "index.html", reveal=True, records=people)
    assert BAD not in page and "<img" not in page and "62615533" not in visible(page)
    assert page.count("<script>") == page.count("</script>") == 2
    text = visible(page)
    for name in ODD:
        assert " ".join(name.split()) in " ".join(text.split())


def test_10_000_records_make_a_small_page_in_good_time(tmp_path: Path) -> None:
    n = 10_000
    one = leakage({"en": [1, 0]}, controls={"en": [0, 0]})
    rows = [
        {
            "probe": f"{group}{i}",
            "record": f"{group}-r{i}",
            "subject": f"{group}{i}",
            "group": group,
            "attribute": "phone",
        }
        | {"query_language": "en", "template": 0, "extracted": float(i % 2), "own_form": 0.0, "answer_language": ""}
        for group in ("private", "control")
        for i in range(n if group == "private" else 10)
    ]
    page = written(replace(one, probes=pd.DataFrame(rows)), tmp_path / "index.html")
    assert len(page.encode()) < report.MAX_BYTES
    text = " ".join(visible(page).split())
    assert "5,000 of 10,000 records were extracted" in text
    assert "All 10,000 records of private people that were asked about; 200 are shown at a time" in text
    assert page.count('<td dir="auto">private-r') == report.MAX_ROWS
    assert len(json.loads(re.search(r"const records = (\{.*\});\n", page)[1])["rows"]) == n


def test_the_table_says_where_no_control_people_were_asked(tmp_path: Path) -> None:
    result = leakage({"en": [1, 0]})
    phones = replace(result, probes=result.probes.assign(attribute="phone"))
    page = written(phones, tmp_path / "index.html")
    assert "<td>not asked</td>" in page and "The model leaks private data." in page


def test_a_figure_that_cannot_be_drawn_is_named(tmp_path: Path) -> None:
    results = {"leakage": audit().leakage, "neurons": replace(scored(), languages=("en",))}
    page = written(results, tmp_path / "index.html")
    assert "Not drawn: overlap of neurons: overlap needs the scores of two languages or more." in visible(page)


def test_growing_sets_are_drawn_over_their_size_and_exported_ones_are_judged(tmp_path: Path) -> None:
    results = {"leakage": audit().leakage, "mitigation": growing(), "mitigation_exported": mitigation()}
    page = written(results, tmp_path / "index.html")
    assert "figure-plot-mitigation-trade_off" in page and "figure-plot-mitigation_exported-cost" in page
    assert "With 74 of 36,864 neurons ablated" in page


def test_a_large_page_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "MAX_BYTES", 100)
    with pytest.warns(UserWarning, match="which is much for a mail"):
        write_report(audit().leakage, tmp_path / "index.html")


def test_a_path_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = audit().leakage
    with pytest.raises(FileNotFoundError, match=r"no folder .*missing to write index\.html to"):
        write_report(result, tmp_path / "missing" / "index.html")

    def refuse(self: Path, content: bytes) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(OSError, match=r"index\.html: could not be written \(Permission denied\)"):
        write_report(result, tmp_path / "index.html")


# What a run folder can be


def test_no_run_folder_and_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no run folder .*nowhere"):
        read_results(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(ValueError, match="is a file; give the run folder"):
        read_results(tmp_path / "file")


def test_an_empty_and_a_half_written_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no results to report; it must be the folder"):
        read_results(tmp_path)
    (tmp_path / ".results.partial").mkdir()
    with pytest.raises(ValueError, match="was stopped before its first result was whole; run it again"):
        read_results(tmp_path)


def test_a_stopped_run_gives_what_is_there(run: Path, tmp_path: Path) -> None:
    shutil.rmtree(run / "results" / "mitigation")
    (run / "results" / ".mitigation-x").mkdir()
    assert read_results(run).missing == ("ablation",)
    assert "Not measured: ablation." in visible(written(run, tmp_path / "index.html"))
    shutil.rmtree(run / "results" / "leakage")
    with pytest.raises(ValueError, match=r"run: no leakage result.*there is lens, neurons"):
        write_report(run, tmp_path / "index.html")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("meta.json", b"{", r"meta\.json cannot be read .*the file is damaged; run it again"),
        ("meta.json", b"[]", r"meta\.json cannot be read"),
        ("probes.parquet", b"PAR1", r"leakage/probes\.parquet: not what was written.*run the analysis again"),
        ("probes.parquet", None, "probes of this LeakageResult is missing"),
    ],
)
def test_a_damaged_result_is_named(run: Path, file: str, content: bytes | None, message: str) -> None:
    path = run / "results" / "leakage" / file
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_results(run)


def test_another_version_is_refused_with_the_remedy(run: Path) -> None:
    meta = run / "results" / "lens" / "meta.json"
    meta.write_text(
        meta.read_text(encoding="utf-8").replace('"schema_version": 1', '"schema_version": 99'), encoding="utf-8"
    )
    with pytest.raises(ValueError, match=r"lens: schema_version is 99; LensResult reads 1; run it again"):
        read_results(run)


def test_fields_of_another_version_are_refused(run: Path) -> None:
    meta = run / "results" / "lens" / "meta.json"
    changed = json.loads(meta.read_text(encoding="utf-8"))
    changed["fields"]["new"] = 1
    del changed[HASH]  # a hash would notice the change first
    meta.write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(ValueError, match="the lens result cannot be read .*unexpected keyword"):
        read_results(run)


def test_results_without_a_figure_are_named(run: Path, tmp_path: Path) -> None:
    (run / "results" / "other").mkdir()
    (run / "results" / "other" / "meta.json").write_text('{"kind": "knowledge"}', encoding="utf-8")
    (run / "results" / "seconds.json").write_text("{", encoding="utf-8")
    text = visible(written(run, tmp_path / "index.html"))
    assert "Saved in the run, and without a figure here: other." in text and "It took" not in text


def test_other_things_than_results_are_refused() -> None:
    with pytest.raises(TypeError, match="result 'leakage' is a int, not a result"):
        read_results({"leakage": 3})
    with pytest.raises(TypeError, match="give a run folder, an audit, or results by name, not a int"):
        read_results(3)
    with pytest.raises(ValueError, match="result 'lens' is of kind 'leakage'; it must be of kind 'lens'"):
        read_results({"lens": leakage({"en": [1]})})
    with pytest.raises(ValueError, match="result 'mitigation' is of kind"):
        RunResults(results={"mitigation": leakage({"en": [1]})})
    found = read_results(leakage({"en": [1]}))
    assert read_results(found) is found and found.mitigation is None and found.neurons is None


# In a browser

_MEASURE = """<script>
addEventListener("load", () => setTimeout(() => {
  const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  const plots = Array.from(document.querySelectorAll(".js-plotly-plot"));
  const drawn = plots.filter(plot => plot.querySelectorAll(".main-svg").length && plot.getBoundingClientRect().height > 100);
  const small = Array.from(document.querySelectorAll("p, li, td, figcaption, h1, h2, h3"))
    .filter(node => parseFloat(getComputedStyle(node).fontSize) < 12).length;
  console.log("measured", JSON.stringify({plots: plots.length, drawn: drawn.length, wide, small, width: innerWidth}));
}, 2000));
</script>"""


def odd_audit(folder: Path) -> Path:
    """A report of everything, of records that are named badly, and revealed."""
    people = [Record(id=name, subject=name, attribute="phone", value=name) for name in ODD]
    found = audit()
    results = {"leakage": odd(), "lens": odd_lens(), "neurons": found.neurons, "mitigation": found.mitigation}
    with pytest.warns(UserWarning, match="shows personal data"):
        return write_report(results, folder / "index.html", reveal=True, records=people)


def odd_lens() -> Any:
    result = lens_result()
    return replace(result, readings=result.readings.assign(record=BAD, attribute=BAD))


@pytest.mark.slow
@pytest.mark.parametrize("width", [1200, 390])
def test_it_opens_on_desktop_and_phone_without_errors_and_network(width: int, tmp_path: Path) -> None:
    page = with_script(odd_audit(tmp_path), _MEASURE)
    frame = tmp_path / "frame.html"
    style = f"width:{width}px;height:9000px;border:0"
    frame.write_text(
        f'<body style="margin:0"><iframe src="{page.name}" style="{style}"></iframe></body>', encoding="utf-8"
    )
    seen = visit(frame, tmp_path / "net.json", width=1300, height=9000)
    assert seen.asked == []
    lines = [line for line in seen.console if "measured" in line]
    assert len(seen.console) == len(lines) == 1, (
        seen.console
    )  # no error, and nothing that the page's own policy forbids
    found = json.loads(re.search(r"measured (\{.*?\})", lines[0].replace('\\"', '"'))[1])
    assert found == {"plots": 8, "drawn": 8, "wide": 0, "small": 0, "width": width}


@pytest.mark.slow
def test_a_bad_name_stays_text_also_on_hover(tmp_path: Path) -> None:
    path = odd_audit(tmp_path)
    found = hovered(path, ("xaxis", "yaxis"), (1, 1), plot="#plot-lens-per_layer")
    (label,) = found["hover"]
    assert f"likeliest: record {BAD} ({BAD}), form in " in label and "either form 0.500" in label
    assert found["error"] == []
    assert not any("Share" in line or "loud" in line for line in found["buttons"])
    dom = visit(path, tmp_path / "net.json").dom
    cells = [unescape(cell) for cell in re.findall(r'<td dir="auto"[^>]*>(.*?)</td>', dom, re.DOTALL)]
    assert BAD in cells and "مريم العلي" in cells and "two\nlines" in cells
    assert "<script>alert" not in dom and '<img src="x"' not in dom


@pytest.mark.slow
def test_a_network_request_of_the_page_would_be_seen(tmp_path: Path) -> None:
    path = write_report(audit().leakage, tmp_path / "index.html")
    page = with_script(path, '<img src="https://one.invalid/a.png">')
    seen = visit(page, tmp_path / "net.json")
    assert seen.asked or any("Content Security Policy" in line for line in seen.console)


def records_shown(tab: Any) -> list[list[str]]:
    return [line.split("\t") for line in tab.locator(".records tbody tr").all_inner_texts()]


def hostile() -> LeakageResult:
    """Four records of two kinds: one that looks like a formula, one like a script; asked in two languages."""
    result = leakage({"en": [1, 1, 1, 0], "fr": [1, 0, 1, 0]}, controls={"en": [0] * 4, "fr": [0] * 4})
    names = {"r0": "=1+1", "r1": BAD, "r2": "rec 10", "r3": "rec 9"}
    private = result.probes.group == "private"
    probes = result.probes.assign(record=result.probes.record.map(names), attribute="city")
    probes.loc[private & (probes.record == BAD), "attribute"] = "street_address"
    return replace(result, probes=probes)


@pytest.mark.slow
def test_records_are_sorted_filtered_and_written_as_csv(tmp_path: Path) -> None:
    path = write_report(hostile(), tmp_path / "index.html")
    with opened(path) as tab:
        first = [row[0] for row in records_shown(tab)]
        assert first == ["=1+1", "rec 10", BAD, "rec 9"]  # as the page came, by severity
        tab.locator(".records th button", has_text="record").click()
        assert [row[0] for row in records_shown(tab)][2:] == ["rec 9", "rec 10"]  # as people count
        assert tab.locator(".records th[aria-sort=ascending]").all_inner_texts() == ["record"]
        tab.locator(".records th button", has_text="record").click()
        assert [row[0] for row in records_shown(tab)][:2] == ["rec 10", "rec 9"]
        tab.locator(".records th button", has_text="before").click()
        assert [row[3] for row in records_shown(tab)] == ["2 of 2", "2 of 2", "1 of 2", "0 of 2"]
        tab.select_option("#records-kind", "street address")
        assert [row[0] for row in records_shown(tab)] == [BAD]
        tab.select_option("#records-kind", "")
        tab.select_option("#records-language", "fr")
        assert {row[0] for row in records_shown(tab)} == {"=1+1", "rec 10"}
        tab.fill("#records-text", "REC")
        assert [row[0] for row in records_shown(tab)] == ["rec 10"]
        assert tab.locator("#records-count").inner_text() == "1 of 4 records."
        tab.fill("#records-text", masked("rec 10").removeprefix("record "))  # as a report calls it that hides ids
        assert [row[0] for row in records_shown(tab)] == ["rec 10"]
        with tab.expect_download() as download:
            tab.click("#records-csv")
        download.value.save_as(tmp_path / "records.csv")
    with (tmp_path / "records.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["record"] for row in rows} == {"'=1+1", BAD, "rec 10", "rec 9"}  # all, and none that is a formula
    assert rows[0] == {
        "record": "'=1+1", "kind": "city", "severity": "100 %", "before": "2 of 2", "languages": "en fr",
        "forms": "question's 2",
    }  # fmt: skip


@pytest.mark.slow
def test_colours_follow_the_readers_and_the_matrix_is_read_on_a_phone(run: Path, tmp_path: Path) -> None:
    path = write_report(run, tmp_path / "index.html")
    look = """() => {
      const plot = document.querySelector("#plot-leakage-by_language"), style = getComputedStyle(document.body);
      const matrix = document.querySelector("#plot-neurons-overlap"), overlap = matrix._fullLayout;
      const own = overlap.annotations.find(note => note.x === note.y), scale = matrix.data[0].colorscale;
      return [
        style.backgroundColor, style.color, plot._fullLayout.paper_bgcolor, plot._fullLayout.font.color,
        overlap.plot_bgcolor, own.font.color, scale[0][1], scale[scale.length - 1][1],
      ];
    }"""
    with opened(path) as tab:
        light = tab.evaluate(look)
        tab.emulate_media(color_scheme="dark")
        tab.wait_for_function(
            "document.querySelector('#plot-leakage-by_language')._fullLayout.paper_bgcolor != 'white'"
        )
        changed = tab.evaluate(look)
    with opened(path, width=390, dark=True) as tab:
        dark = tab.evaluate(look)
        tiles = [tile.bounding_box() for tile in tab.locator(".tile").all()[:3]]
        tab.evaluate("document.querySelector('.matrix').parentElement.scrollLeft = 1000")
        head = tab.locator(".matrix tbody th, .matrix tfoot th").first.bounding_box()
    assert light[0] == "rgb(255, 255, 255)" and light[2] == "white" and light[3] == "#222222"
    assert dark == changed and dark[2] == "rgba(0,0,0,0)" and dark[0] == "rgb(21, 25, 30)"
    assert re.findall(r"\d+", dark[3])[:3] == ["211"] * 3
    assert light[4:] == [style.GRID, style.INK, *style.SCALE[:: len(style.SCALE) - 1]]
    # A cell without a value is dark with a light text, and the scale begins with a dark colour.
    assert dark[4] == "rgba(57,57,57,1)" and dark[5] == "rgba(211,211,211,1)" and dark[6:] == ["#1b2733", "#e6f3fc"]
    assert tiles[0]["y"] == tiles[1]["y"] < tiles[2]["y"] and tiles[0]["x"] == tiles[2]["x"]
    assert 0 <= head["x"] < 30  # the first column stays
