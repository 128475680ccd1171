"""Ask the Hugging Face hub once whether it has a file, before transformers asks for half a minute.

huggingface_hub repeats a request that fails five times, with pauses. A misspelt name on a machine without a network would take
25 seconds and end in a sentence about the connection.
"""

from __future__ import annotations

from collections.abc import Sequence

from xlmech.models.sources.weight_checks import first_line

MODEL_FILES = ("config.json",)
TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json", "config.json")
MODEL_REMEDY = "give 'demo', the id of a model on the hub, a folder written by save_pretrained, or a .gguf file"


def check_on_hub(name: str, files: Sequence[str], remedy: str = MODEL_REMEDY) -> None:
    """Raise ValueError where a hub id can neither be found in this machine's cache nor on the hub.

    Args:
        name: Hub id.
        files: Of which one in the cache is enough; the first is looked for on the hub. Whether a model that is there lacks it is
            left to transformers.
        remedy: How messages end.

    Raises:
        ValueError: There is no such model, or none that this user may see; it may not be read without a login; the hub cannot be
            reached; or `name` cannot be a hub id.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        if any(isinstance(try_to_load_from_cache(name, file), str) for file in files):
            return
        get_hf_file_metadata(hf_hub_url(name, files[0]))
    except EntryNotFoundError:
        return
    except HFValidationError as error:
        raise ValueError(f"{name}: is no folder here, and cannot be a hub id; {remedy}") from error
    except GatedRepoError as error:
        raise ValueError(
            f"{name}: the hub lets only those read this model who have accepted its terms; accept them on its page, and log in "
            "(`hf auth login`)"
        ) from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"{name}: there is no such folder here, and the hub has no model of this name that you may see (log "
            f"in for a private one: `hf auth login`); {remedy}"
        ) from error
    except Exception as error:  # whichever library huggingface_hub asks with
        raise ValueError(
            f"{name}: there is no such folder here, and no model of this name in the Hugging Face cache of this machine; whether "
            f"the hub has one is not known, as it could not be asked ({first_line(error)}); {remedy}"
        ) from error
