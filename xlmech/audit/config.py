"""The config file of `xlmech run`: every choice of an audit in one YAML file, checked before any model is loaded.

    xlmech init           # writes xlmech.yaml: every key, its default, what it means
    xlmech run xlmech.yaml

The docstring under each field says what it means, and is what `xlmech init` writes above it. Only `model.source` and
`data.records` have no default. Paths are relative to the config's folder. What is read (`source`, `tokenizer`, `adapter`,
`records`) is kept as an absolute path and what is written (`out`, `export.folder`) as it was given, so that the copy in a run
folder can be run again.
"""

from __future__ import annotations

import os
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, PrivateAttr, ValidationError, ValidationInfo, field_validator

from xlmech.audit.config_yaml import dump_yaml, explain, minimal_template, parse_yaml, template
from xlmech.audit.plan import Selection
from xlmech.data.languages import load_language
from xlmech.options import Count, LocateOptions, MitigateOptions, Section


class ModelSection(Section):
    """The model that is audited; see `load_model`."""

    source: str = Field(examples=["my-model"])
    """Where the weights are: "demo", a Hugging Face id, a folder as save_pretrained writes it, or a .gguf file."""
    tokenizer: str | None = None
    """Folder or Hugging Face id of the tokenizer, if the source has none."""
    adapter: str | None = None
    """Folder of a LoRA adapter to merge first, or en, fr or zh for the demo model's."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes CUDA if there is one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16", "float64"] = "auto"
    """Precision of the weights while measuring; auto is float32 on a CPU and bfloat16 on CUDA."""
    backend: Literal["auto", "hooked", "bridge"] = "auto"
    """TransformerLens model to use."""
    base: str = ""
    """For the backend hooked and a folder: TransformerLens' name of the model that the folder holds a version of."""
    device_map: Literal["auto", "balanced", "sequential"] | None = None
    """Spread the layers over all GPUs instead of using device; null for one device."""
    trust_remote_code: bool = False
    """Run code that comes with the model; only for sources that you trust."""
    plant_language: str = ""
    """Language in which the private records were in the training data, e.g. en; an adapter made by xlmech knows its own."""

    @field_validator("source", "tokenizer")
    @classmethod
    def _check_source(cls, text: str | None, info: ValidationInfo) -> str | None:
        if text is None or text == "demo":
            return text
        path = _read_path(text, info)
        is_model = any((path / name).is_file() for name in ("config.json", "adapter_config.json"))
        if path.is_dir() and info.field_name == "source" and not is_model:
            raise ValueError(f"{path} holds no config.json; give a folder as save_pretrained writes it")
        if path.exists():
            return str(path)
        if not text or text.startswith((".", "/", "~")) or text.endswith(".gguf") or text.count("/") > 1:
            raise ValueError(f"nothing is at {path}; give a folder or .gguf file that exists, or a Hugging Face id")
        return text

    @field_validator("adapter")
    @classmethod
    def _adapter_path(cls, text: str | None, info: ValidationInfo) -> str | None:
        if text and (path := _read_path(text, info)).is_dir():
            return str(path)
        return text

    @field_validator("plant_language")
    @classmethod
    def _check_plant_language(cls, code: str) -> str:
        if code:
            load_language(code)
        return code


class RecordsSection(Section):
    """The file of records."""

    records: str = Field(examples=["records.csv"])
    """CSV, JSONL or Parquet with columns id, subject, attribute, value, and if you like group (private, public, control)."""

    @field_validator("records")
    @classmethod
    def _check_records(cls, text: str, info: ValidationInfo) -> str:
        path = _read_path(text, info)
        if not path.is_file():
            raise ValueError(f"no file of records at {path}; expected .csv, .jsonl or .parquet")
        return str(path)


class DataSection(Selection, RecordsSection):
    """Records and questions; see `AuditPlan`."""

    add_controls: bool = False
    """Add invented people whom the model never saw, with the private records' attributes: how often a value is extracted by
    chance. Needs Faker (pip install "xlmech[plant]")."""
    n_controls: Count = 12
    """Number of invented people; half of them are measured if held_out is 0.5."""


class ExportSection(Section):
    """The mitigated checkpoint; without this section none is written. See `export_model`."""

    folder: str = "xlmech-mitigated"
    """New folder for a plain Hugging Face checkpoint with the neurons at zero, or turned down."""
    neurons: Literal["universal", "union", "gates"] = "universal"
    """universal neurons, or the union of them and every language's own (with one language, that language's neurons either way),
    or the gates of the section mitigate, by which neurons are turned down. What is exported is what is measured."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the weights that are written."""
    without_effect: bool = False
    """Write the checkpoint also if it was not measured to lower extraction (over all languages together, with a 95 %
    interval above 0); its model card says so."""


class Config(Section):
    """All that `xlmech run` is told."""

    model: ModelSection
    data: DataSection
    locate: LocateOptions = LocateOptions()
    mitigate: MitigateOptions | None = None
    export: ExportSection | None = None
    out: str = "xlmech-run"
    """New folder for results, figures and a copy of this config."""
    seed: int = Field(default=0, ge=0)
    """Seed of every draw: who is held out, which random neurons, which invented people."""
    shard_size: Count = 64
    """Probes that are computed and stored together: what a crash costs at most. Another size gives other rounding."""
    xlmech: str = Field(default_factory=partial(metadata.version, "xlmech"))
    """Version of xlmech that wrote this file."""
    _folder: Path = PrivateAttr()

    @field_validator("mitigate", "export", mode="before")
    @classmethod
    def _check_given(cls, section: Any, info: ValidationInfo) -> Any:
        if section is None and info.context is not None:  # in a file; in Python None stands for no section
            key, without = _OPTIONAL[str(info.field_name)]
            raise ValueError(f"the section is empty; give it a key, e.g. {key}, or remove it to {without}")
        return section

    @field_validator("export")
    @classmethod
    def _check_export(cls, section: ExportSection | None, info: ValidationInfo) -> ExportSection | None:
        if section is not None and section.neurons == "gates" and info.data.get("mitigate", True) is None:
            raise ValueError("neurons: gates needs the section 'mitigate', which learns them; add it, e.g. with steps")
        return section

    def model_post_init(self, context: Any, /) -> None:
        """Remember the folder that paths are relative to."""
        self._folder = _folder(context)

    @property
    def run_folder(self) -> Path:
        """Absolute path of the run folder."""
        return self.path(self.out)

    @property
    def checkpoint_folder(self) -> Path | None:
        """Absolute path of the mitigated checkpoint, None if none is asked for."""
        return self.path(self.export.folder) if self.export else None

    def path(self, text: str) -> Path:
        """Make a path of the config absolute."""
        return _absolute(self._folder, text)

    def save(self, path: str | Path) -> None:
        """Write the config, as read, with the present xlmech's version, for `read_config`."""
        content = self.model_dump(mode="json") | {"xlmech": metadata.version("xlmech")}
        for name in _OPTIONAL:
            if content[name] is None:
                del content[name]
        Path(path).write_text(dump_yaml(content), encoding="utf-8")


SECTIONS: dict[str, type[BaseModel]] = {
    "": Config,
    "model": ModelSection,
    "data": DataSection,
    "locate": LocateOptions,
    "mitigate": MitigateOptions,
    "export": ExportSection,
}
_OPTIONAL = {"mitigate": ("steps", "learn no gates"), "export": ("folder", "write no checkpoint")}
"""Sections that may be left out: a key of each, and what leaving it out does."""


def read_config(path: str | Path) -> Config:
    """Read and check a config file.

    What depends on the records or the model is checked by `prepare`.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not YAML, empty, an unknown or missing key, or a value that cannot be used; names line, key and value.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no config file at {path}; write one with: xlmech init {path}")
    tree, content = parse_yaml(path)
    for name in ("model", "data", "locate"):
        if content.get(name, "") is None:
            content[name] = {}  # every key of the section is a comment
    try:
        return Config.model_validate(content, context={"folder": path.absolute().parent})
    except ValidationError as error:
        raise ValueError(f"{path.name}, {explain(error, tree, SECTIONS)}") from None


def write_template(path: str | Path, *, minimal: bool = False) -> Path:
    """Write a config with every key, its default and what it means; the keys of `mitigate` are comments, as gates take long.

    Args:
        path: New file.
        minimal: Write only what must be filled in.

    Raises:
        FileExistsError: There is a file already.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists; give another path, or move it away")
    path.parent.mkdir(parents=True, exist_ok=True)
    text = minimal_template(SECTIONS) if minimal else template(SECTIONS, left_out=("mitigate",))
    path.write_text(text, encoding="utf-8")
    return path


def _folder(context: Any) -> Path:
    """Folder that paths are relative to: the config file's, or the working directory for a config made in Python."""
    return Path(context["folder"]) if context else Path.cwd()


def _absolute(folder: Path, text: str) -> Path:
    return Path(os.path.abspath(folder / os.path.expanduser(text)))


def _read_path(text: str, info: ValidationInfo) -> Path:
    return _absolute(_folder(info.context), text)
