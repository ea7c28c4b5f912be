"""`ptst push`: a fine-tuning's weights and its model card, to the Hugging Face hub."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ptst.errors import PtstError
from ptst.redact import redacted
from ptst.report.card import model_card, weights_of
from ptst.schema import Config
from ptst.store import Store


def push(config: Config, store: Store, repo: str, private: bool) -> str:
    """Upload the weights that a cell tests, with the card that `ptst card` prints.

    Args:
        repo: "owner/name"; it is made where it is not there.
        private: who may see it if it is made now.

    Returns:
        The address of the upload.

    Raises:
        PtstError: there are no weights, or the hub refuses; with its own words.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    weights, card = weights_of(config, store), model_card(config, store)
    api = HfApi()
    with tempfile.TemporaryDirectory(prefix="ptst-push-") as folder:
        for file in weights.iterdir():
            if file.name != "README.md":  # PEFT's own names paths of this machine
                (Path(folder) / file.name).symlink_to(file.resolve())
        (Path(folder) / "README.md").write_text(card, encoding="utf-8")
        try:
            api.create_repo(repo, private=private, exist_ok=True)
            done = api.upload_folder(
                repo_id=repo, folder_path=folder, commit_message=f"{config.model.name}, fine-tuned"
            )
        except HFValidationError as error:
            raise PtstError(f"repo={repo}: {error}") from error
        except (HfHubHTTPError, OSError) as error:
            raise PtstError(
                f"the hub refuses {repo}: {redacted(str(error)).splitlines()[0]}"
            ) from error
    return str(done.commit_url)
