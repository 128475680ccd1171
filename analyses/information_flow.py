"""Is private information processed in middle layers that languages share, and does leakage peak in later ones?

Writes `analyses/results/information_flow/<adapter>/`, `figures/information_flow.json` and `figures/information_flow_*.html`.

    python analyses/information_flow.py              # every shipped adapter: 15 minutes on one core
    python analyses/information_flow.py --only fr    # measure this adapter only; draw nothing
    python analyses/information_flow.py --summary    # from the saved results: the findings and the figures

The same people are asked with a question that was held out from planting, and looked at in three ways: similarity of
representations, patching from one language's run into another's, and the logit lens. Every interval is 95 %, over subjects
or, for patching, over pairs of subjects; those of similarities and of layers are bootstrapped.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator, Sequence
from itertools import permutations
from typing import Any

import numpy as np
import outputs
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from xlmech import (
    LensResult,
    PatchingResult,
    ProbeSet,
    SimilarityResult,
    build_probes,
    demo_records,
    figures,
    load_model,
    logit_lens,
    patch_languages,
    representation_similarity,
)
from xlmech.data.readers import DEMO_LANGUAGES
from xlmech.figures import faded, finish
from xlmech.figures.findings import layer_runs
from xlmech.metrics import intervals
from xlmech.metrics.layers import peak_layer
from xlmech.metrics.resampling import bootstrap_means, percentile_interval
from xlmech.models.sources.lora import shipped_adapters

RESULTS = outputs.RESULTS / "information_flow"
READ = "birth_country"
"""The attribute that similarity and lens ask for."""
PATCHED = ("birth_country", "occupation")
BETWEEN = ("en", "fr", "zh")
KNOWN = 0.5
"""Least probability that both unpatched runs give their own value, for a pair to count."""
OTHERS = "other languages"
ELSEWHERE = "not into the plant language"
"""A run that answers a foreign question in its plant language brings that form over without any translation."""
BLUE, ORANGE, GREEN, INK, GREY = "#0072B2", "#D55E00", "#009E73", "#222222", "#8C8C8C"

Finding = dict[str, Any]


def main() -> None:
    parser = outputs.parser_of(__doc__)
    parser.add_argument("--only", metavar="LANGUAGE", help="measure this adapter only, and draw nothing")
    parser.add_argument("--summary", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    if not arguments.summary:
        for language in [arguments.only] if arguments.only else shipped_adapters():
            measure(language)
    if not arguments.only:
        # The file that `measure` writes last: an adapter without it is not complete.
        summarise([code for code in shipped_adapters() if (RESULTS / code / "any_form.parquet").is_file()])


# Measuring


def measure(language: str) -> None:
    model, folder = load_model("demo", adapter=language), RESULTS / language
    probes = build_probes(demo_records(), DEMO_LANGUAGES, attributes=PATCHED).of_template(-1)
    private, public = (probes.filter(group=group) for group in ("private", "public"))
    lens = logit_lens(model, private.filter(attributes=[READ]))
    parts = {
        "similarity": representation_similarity(model, private.filter(attributes=[READ])),
        "lens": trimmed(lens),
        "patching_private": patch_languages(model, pairs_of(private, language, controls=True)),
        "patching_public": patch_languages(model, pairs_of(public.filter(attributes=[READ]), language)),
        "patching_subject": patch_languages(
            model,
            [
                pair
                for pair in pairs_of(private.filter(attributes=[READ]), language)
                if pair.target.query_language != language
            ],
            position="subject",
        ),
    }
    for name, result in parts.items():
        shutil.rmtree(folder / name, ignore_errors=True)
        result.save(folder / name)
    any_form(lens).to_parquet(folder / "any_form.parquet", index=False)


def pairs_of(probes: ProbeSet, plant: str, *, controls: bool = False) -> list[Any]:
    """All ordered pairs of languages; sources of another attribute as the null, out of the plant language."""
    return [
        pair
        for source, target in permutations(BETWEEN, 2)
        for pair in probes.pairs(source=source, target=target, controls=controls and source == plant)
        if pair.kind != "same_language"
    ]


def any_form(lens: LensResult) -> pd.DataFrame:
    """Per probe and layer, the probability of the first tokens of all ten languages' forms, each token once."""
    # Forms with one first token have one probability; others do not share it to the last digit.
    once = lens.readings.drop_duplicates(["probe", "layer", "prob"])
    return once.groupby(["subject", "probe", "query_language", "layer"], as_index=False, sort=False).prob.sum()


def trimmed(lens: LensResult) -> LensResult:
    """The rows that summaries and figures read: the query and plant language's forms and the likeliest other."""
    rows = lens.readings[lens.readings.form != "same"].sort_values("prob", ascending=False, kind="stable")
    rows = rows.drop_duplicates(["probe", "layer", "form"]).sort_index()
    return dataclasses.replace(lens, readings=rows.reset_index(drop=True))


# Findings


def summarise(languages: Sequence[str]) -> None:
    findings, curves = [], []
    for plant in languages:
        folder = RESULTS / plant
        similarity, lens = SimilarityResult.load(folder / "similarity"), LensResult.load(folder / "lens")
        patching = {
            people: PatchingResult.load(folder / f"patching_{people}").known(at_least=KNOWN)
            for people in ("private", "public")
        }
        subject = PatchingResult.load(folder / "patching_subject").known(at_least=KNOWN)
        forms = pd.read_parquet(folder / "any_form.parquet")
        found = [
            *of_similarity(similarity),
            *(row for people, result in patching.items() for row in of_patching(result, plant, people)),
            *of_subject(subject),
            *of_lens(lens),
            *of_leakage(forms, lens),
        ]
        findings += [{"plant_language": plant, **row} for row in found]
        drawn = [
            similarity_curves(similarity),
            patching_curves({**patching, "subject": subject}, plant),
            lens_curves(lens, forms),
        ]
        curves.append([frame.assign(plant_language=plant) for frame in drawn])
    write(findings)
    draw(*(pd.concat(parts, ignore_index=True) for parts in zip(*curves, strict=True)))
    print(pd.DataFrame(findings).drop(columns="note").to_string())


def of_similarity(result: SimilarityResult) -> Iterator[Finding]:
    for place in ("subject_last", "last"):
        frame = result.pooled[(result.pooled.measure == "cosine") & (result.pooled.position == place)]
        shared = result.shared_layers(position=place)
        everywhere = set.intersection(*(set(layers) for pair, layers in shared.items() if pair != "all"))
        common = {"languages": "mean of 45 pairs", "n_subjects": result.n_subjects}
        yield {
            "finding": f"2: layers above the mismatched null, cosine at {place}",
            "value": list(shared["all"]),
            "low": None,
            "high": None,
            "note": f"lower bound above the null's 95 % quantile; in every single pair: {sorted(everywhere)}",
        } | common
        best = frame.loc[(frame.value - frame.null).idxmax()]
        yield {
            "finding": f"2: cosine at {place}, layer where it is furthest above the null",
            "value": best.value,
            "low": best.low,
            "high": best.high,
            "note": f"layer {best.layer}; null's 95 % quantile {best.null:.2f}",
        } | common


def of_patching(result: PatchingResult, plant: str, people: str) -> Iterator[Finding]:
    ways = {
        "out of the plant language": lambda frame: frame.source_language == plant,
        "into the plant language": lambda frame: frame.target_language == plant,
        "between others": lambda frame: (frame.source_language != plant) & (frame.target_language != plant),
        ELSEWHERE: lambda frame: frame.target_language != plant,
    }
    for way, test in ways.items():
        for kind in ("cross_language", "other_attribute"):
            frame = result.outcomes[(result.outcomes.kind == kind) & test(result.outcomes)]
            if frame.empty or (kind == "other_attribute" and way == ELSEWHERE):
                continue
            pooled = dataclasses.replace(result, outcomes=frame.assign(source_language=way, target_language=way))
            yield from _of_pooled(pooled, way, people, null=kind == "other_attribute")


def _of_pooled(result: PatchingResult, way: str, people: str, *, null: bool) -> Iterator[Finding]:
    peaks, summary = result.peaks().set_index("outcome"), result.summary()
    subjects = pd.concat([result.outcomes.source_subject, result.outcomes.target_subject]).nunique()
    for outcome, words in (("source_in_target", "target's form"), ("source_in_source", "source's form")):
        peak = peaks.loc[outcome]
        at = summary[(summary.outcome == outcome) & (summary.layer == peak.layer)].iloc[0]
        what = f"2: patching, {people} people: source's value in {words}" + (", null" if null else "")
        common = {"languages": way, "n_subjects": subjects}
        note = f"mean probability of the first token, {at.n_pairs} pairs"
        note += ", source of another attribute" if null else ""
        layer = {"value": int(peak.layer), "low": peak.low, "high": peak.high, "note": f"layer of the highest; {note}"}
        rate = {"value": at.prob, "low": at.prob_low, "high": at.prob_high, "note": f"at layer {at.layer}; {note}"}
        yield {"finding": f"{what}, layer"} | layer | common
        yield {"finding": what} | rate | common


def of_subject(result: PatchingResult) -> Iterator[Finding]:
    frame = result.outcomes[result.outcomes.outcome == "source_in_target"]
    people = ("source_subject", "target_subject")
    layers, (curve, low, high), draws = curves_of(frame.assign(prob=np.exp(frame.log_prob)), *people)
    best = int(curve.argmax())
    held, drawn = (_last_half(values) for values in (curve[None], draws))
    bounds = percentile_interval(drawn)
    subjects = pd.concat([frame.source_subject, frame.target_subject]).nunique()
    common = {"languages": ELSEWHERE, "n_subjects": subjects}
    note = f"mean probability of the first token, {frame.pair.nunique()} pairs"
    what = "2: patching the whole subject, private people: source's value in target's form"
    yield {
        "finding": what,
        "value": curve[best],
        "low": low[best],
        "high": high[best],
        "note": f"at layer {layers[best]}; {note}",
    } | common
    yield {
        "finding": f"{what}, last layer with half of that",
        "value": held[0],
        "low": float(bounds[0]),
        "high": float(bounds[1]),
        "note": note,
    } | common


def _last_half(curves: np.ndarray) -> np.ndarray:
    """(...) last layer at which each (..., layer) curve has half of its maximum."""
    enough = curves >= curves.max(-1, keepdims=True) / 2
    return (curves.shape[-1] - 1 - enough[..., ::-1].argmax(-1)).astype(float)


def of_lens(lens: LensResult) -> Iterator[Finding]:
    frame = pd.concat([lens.depths(), pooled(lens).depths()])
    for row in frame[frame.query_language != lens.plant_language].itertuples():
        happens = f"in {100 * row.share:.0f} % of resamples; " if row.event == "overtaking" else ""
        yield {
            "finding": f"3: lens, {row.event}, layer",
            "languages": row.query_language,
            "value": row.layer,
            "low": row.low,
            "high": row.high,
            "n_subjects": row.n_subjects,
            "note": f"{happens}probability there {row.prob:.2f}",
        }


def of_leakage(forms: pd.DataFrame, lens: LensResult) -> Iterator[Finding]:
    plant, depths = lens.plant_language, pooled(lens).depths().set_index("event").layer
    shared = int(depths["plant peak"])
    parts = {code: part for code, part in forms.groupby("query_language", sort=False)}
    for languages, part in {OTHERS: forms[forms.query_language != plant], **parts}.items():
        if part.subject.nunique() < 2:
            continue
        _, (curve, low, high), draws = curves_of(part, "subject")
        peak, common = int(curve.argmax()), {"languages": languages, "n_subjects": part.subject.nunique()}
        layers = percentile_interval(peak_layer(draws))
        yield {
            "finding": "3: lens, value in any form, layer of the highest probability",
            "value": peak,
            "low": float(layers[0]),
            "high": float(layers[1]),
            "note": f"probability there {curve[peak]:.2f} ({low[peak]:.2f} to {high[peak]:.2f})",
        } | common
        sums, counts = by_people(part, "subject")
        rise = intervals.mean_interval(sums[:, -1] - sums[:, shared], counts[:, shared], bounds=(-1, 1))
        yield {
            "finding": "3: lens, value in any form, last layer less the layer where the plant form peaks",
            "value": rise.value,
            "low": rise.low,
            "high": rise.high,
            "note": f"plant form peaks at layer {shared}",
        } | common


def curves_of(frame: pd.DataFrame, *subjects: str) -> tuple[list[int], intervals.Intervals, np.ndarray]:
    """Layers, the mean `prob` of each with its interval, and (resample, layer) draws of it, to tell where a curve is highest."""
    sums, counts = by_people(frame, *subjects)
    found = intervals.mean_intervals(sums, counts, bounds=(0, 1))
    return sorted(frame.layer.unique()), found, bootstrap_means(sums, counts)[1]


def by_people(frame: pd.DataFrame, *subjects: str) -> tuple[np.ndarray, np.ndarray]:
    """(person, layer) sums of `prob` and how many each has; a person is who a row is about, in either order."""
    people = pd.Series(map("-".join, np.sort(frame[list(subjects)].to_numpy(str), axis=1)), index=frame.index)
    cells = frame.prob.groupby([people, frame.layer]).agg(["sum", "count"]).unstack(fill_value=0)
    return cells["sum"].to_numpy(float), cells["count"].to_numpy(float)


def pooled(lens: LensResult) -> LensResult:
    """Questions in all languages but the training language, as if they were one."""
    rows = lens.readings[lens.readings.query_language != lens.plant_language]
    return dataclasses.replace(lens, readings=rows.assign(query_language=OTHERS))


def write(findings: list[Finding]) -> None:
    rows = [{key: plain(value) for key, value in row.items()} for row in findings]
    order = ("plant_language", "finding", "languages", "value", "low", "high", "n_subjects", "note")
    lines = ",\n".join(json.dumps({key: row[key] for key in order}, ensure_ascii=False) for row in rows)
    outputs.save_text(f"[\n{lines}\n]\n", "information_flow.json")


def plain(value: Any) -> Any:
    """A JSON value: numbers to three decimals, None where there is none."""
    if isinstance(value, str | list) or value is None:
        return value
    return None if np.isnan(value) else round(float(value), 3) if value % 1 else int(value)


# Figures: curves are frames of `line`, `layer`, `value`, `low`, `high`


def similarity_curves(result: SimilarityResult) -> pd.DataFrame:
    frame = result.pooled[(result.pooled.measure == "cosine") & (result.pooled.position == "last")]
    null = frame.assign(line="null", value=frame.null, low=np.nan, high=np.nan)
    return pd.concat([frame.assign(line="same person"), null])[["line", "layer", "value", "low", "high"]]


def patching_curves(results: dict[str, PatchingResult], plant: str) -> pd.DataFrame:
    parts = []
    for people, result in results.items():
        frame = result.outcomes[(result.outcomes.kind == "cross_language") & (result.outcomes.target_language != plant)]
        whole = dataclasses.replace(result, outcomes=frame.assign(source_language="all", target_language="all"))
        parts.append(whole.summary().assign(people=people))
    frame = pd.concat(parts, ignore_index=True)
    frame = frame.assign(line=frame.people + " " + frame.outcome).rename(
        columns={"prob": "value", "prob_low": "low", "prob_high": "high"}
    )
    return frame[["line", "layer", "value", "low", "high"]]


def lens_curves(lens: LensResult, forms: pd.DataFrame) -> pd.DataFrame:
    frame = pooled(lens).summary().rename(columns={"form": "line", "prob": "value"})
    layers, (curve, low, high), _ = curves_of(forms[forms.query_language != lens.plant_language], "subject")
    whole = pd.DataFrame({"line": "any", "layer": layers, "value": curve, "low": low, "high": high})
    return pd.concat([frame, whole])[["line", "layer", "value", "low", "high"]]


def draw(similarity: pd.DataFrame, patching: pd.DataFrame, lens: pd.DataFrame) -> None:
    save(
        "similarity",
        panels(similarity, {"same person": ("same person", BLUE, "solid"), "null": ("null", GREY, "dot")}),
        similarity_title(similarity),
        """Cosine of resid_post of the same question about the same person in two languages, each language's mean taken off;
        mean over 45 pairs of ten languages, private people's country of birth. Band: 95 % interval, resampling subjects.
        Null: the 95 % quantile of the same mean with every person mismatched.""",
        "cosine",
    )
    save(
        "patching",
        panels(
            patching,
            {
                "private source_in_target": ("private, in the target's form", BLUE, "solid"),
                "private source_in_source": ("private, in the source's form", ORANGE, "solid"),
                "public source_in_target": ("public, in the target's form", BLUE, "dot"),
                "public source_in_source": ("public, in the source's form", ORANGE, "dot"),
                "subject source_in_target": ("private, subject patched, target's form", GREEN, "dash"),
            },
        ),
        patching_title(patching),
        f"""resid_post of a question about another person in another language is put into the target's run at the last token
        (green: at all tokens of the subject); among English, French and Chinese, all directions but into the plant
        language; pairs whose two runs give their own value with probability {KNOWN:g} or more. First tokens. Bands: 95 %
        interval, over pairs of subjects. Private people were taught in one language, public ones in ten.""",
        "probability (0 to 1)",
    )
    save(
        "lens",
        panels(
            lens,
            {
                "any": ("any language's form", INK, "solid"),
                "plant": ("training language's form", ORANGE, "dash"),
                "query": ("query language's form", BLUE, "solid"),
                "other": ("likeliest other form", GREY, "dot"),
            },
        ),
        lens_title(lens),
        """The residual stream after each layer, read through the model's own unembedding; first tokens, mean over nine query
        languages, private people's country of birth. Bands: 95 % interval, over subjects. Questions whose two
        forms share the first token are left out.""",
        "probability (0 to 1)",
    )


def similarity_title(frame: pd.DataFrame) -> str:
    """State in which layers all copies share more than mismatched people, by the interval."""
    same, null = (frame[frame.line == line].set_index(["plant_language", "layer"]) for line in ("same person", "null"))
    above = (same.low > null.value).groupby("layer").all()
    if not above.any():
        return "In no layer do languages share more than mismatched people, in every copy of the model"
    where = "every layer" if above.all() else layer_runs(above.index[above])
    return f"In {where} languages share more than mismatched people, in every copy of the model"


def patching_title(frame: pd.DataFrame) -> str:
    """State how likely the source's value comes at most in the target's form, and in the source's, with intervals."""
    said = []
    for line, form in (("private source_in_target", "the target's form"), ("private source_in_source", "the source's")):
        best = frame[frame.line == line].sort_values("value").iloc[-1]
        said.append(f"{best.value:.2f} [{best.low:.2f}, {best.high:.2f}] in {form}")
    return f"Patched, private values come with probability up to {' and '.join(said)}"


def lens_title(frame: pd.DataFrame) -> str:
    """State in which copies the training language's form peaks before the query language's overtakes it."""
    first = []
    for code, part in frame.groupby("plant_language"):
        peaks = {line: of.sort_values("value").layer.iloc[-1] for line, of in part.groupby("line")}
        if peaks["plant"] < peaks["query"]:
            first.append(figures.language_name(str(code)))
    n = frame.plant_language.nunique()
    return (
        f"The training language's form is likeliest in an earlier layer than the query's in {len(first)} of {n} copies"
    )


def panels(frame: pd.DataFrame, lines: dict[str, tuple[str, str, str]]) -> go.Figure:
    """A panel per training language; each line with its band, in the legend once."""
    plants = list(frame.plant_language.unique())
    titles = [f"planted in {figures.language_name(code)}" for code in plants]
    figure = make_subplots(1, len(plants), subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.03)
    for col, plant in enumerate(plants, start=1):
        for key, (name, colour, dash) in lines.items():
            part = frame[(frame.plant_language == plant) & (frame.line == key)].sort_values("layer")
            x = part.layer.tolist()
            figure.add_scatter(
                x=x + x[::-1], y=part.high.tolist() + part.low.tolist()[::-1], fill="toself", mode="none",
                fillcolor=faded(colour), hoverinfo="skip", showlegend=False, legendgroup=name, row=1, col=col,
            )  # fmt: skip
            hover = [f"{name}, layer {r.layer}<br>{r.value:.3f} [{r.low:.3f}, {r.high:.3f}]" for r in part.itertuples()]
            figure.add_scatter(
                x=x, y=part.value, mode="lines", line={"color": colour, "dash": dash, "width": 2}, name=name, hovertext=hover,
                hoverinfo="text", legendgroup=name, showlegend=col == 1, row=1, col=col,
            )  # fmt: skip
        figure.update_xaxes(title_text="layer", nticks=7, row=1, col=col)
    return figure.update_annotations(font_size=13)


def save(name: str, figure: go.Figure, title: str, caption: str, unit: str) -> None:
    figure.update_yaxes(title_text=unit, col=1).update_yaxes(rangemode="tozero")
    finish(figure, title, caption, height=260, legend=True, head=106)
    outputs.save_page(figure, f"information_flow_{name}")
    if name in ("lens", "patching"):  # pictures of the documentation
        figures.save(figure, outputs.FIGURES / f"information_flow_{name}.png", width=1000, scale=1)


if __name__ == "__main__":
    main()
