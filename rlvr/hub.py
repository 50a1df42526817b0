"""Publishing a folder on the Hugging Face hub, or on the server that HF_ENDPOINT names."""

import os
from pathlib import Path

MARKER = "rlvr_export.json"
"""In every export: which run it is of, and the checksums of its files."""


def require_token() -> None:
    """Raise if there is no access token.

    Raises:
        ValueError: Says how to get one.
    """
    from huggingface_hub import get_token

    if not get_token():
        raise ValueError(
            "the hub wants an access token and there is none: run `hf auth login`, or set HF_TOKEN to a token that "
            "may write (made at https://huggingface.co/settings/tokens)"
        )


def endpoint() -> str:
    """Return the address of the hub."""
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def push(folder: Path, repository: str, *, private: bool, message: str, again: str) -> str:
    """Upload a folder as one model repository; returns its address.

    A repository is made if there is none. One that holds something else than an export is left alone, and so
    is a public one when `private` is asked for. Weights of an earlier export under other names are removed.

    Args:
        folder: Of a whole export.
        repository: `user/name`.
        private: Of a repository that is made.
        message: Of the commit.
        again: The command that tries it again.

    Raises:
        ValueError: If the repository cannot be used or reached; the folder is as it was.
    """
    from huggingface_hub import HfApi

    # HTTPError: of the HTTP library that the installed version uses
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    api = HfApi(endpoint=endpoint(), library_name="rlvr")
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        info = api.model_info(repository)
        there = {item.rfilename for item in info.siblings or []}
        _check_repository(there, private=private, is_private=bool(info.private))
        sent = {path.name for path in folder.iterdir()}
        stale = [name for name in there - sent if name.endswith((".safetensors", ".index.json"))]
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message=message,
            delete_patterns=stale or None,
        )
    except _Refused as error:
        reason = str(error)
    except HfHubHTTPError as error:
        code = error.response.status_code
        hint = (
            " The token may not write there: see https://huggingface.co/settings/tokens."
            if code in (401, 403)
            else ""
        )
        reason = f"{_first_line(error)}.{hint}"
    # RuntimeError: an upload of one file failed; ValueError: an answer that is none of the hub's
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        reason = f"{_first_line(error) or type(error).__name__}"
    else:
        return f"{api.endpoint}/{repository}"
    raise ValueError(
        f"{repository} at {api.endpoint} was not published: {reason}\nThe export is whole in {folder}. Again: {again}, "
        f"or publish the folder with: hf upload {repository} {folder} ."
    )


class _Refused(Exception):
    """The repository must not be written to."""


def _check_repository(there: set[str], *, private: bool, is_private: bool) -> None:
    if there - {".gitattributes"} and MARKER not in there:
        raise _Refused(
            f"it holds something else ({', '.join(sorted(there)[:3])}), and not an export of rlvr; choose another name"
        )
    if private and not is_private:
        raise _Refused(
            "it is public, and a private one is asked for; use --public (export.private: false), or another name"
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")
