"""Models go to a hub and come back, by the real client and a server on this machine."""

import logging
import os
import subprocess
import sys

import numpy as np
import pytest
from hub_server import TOKEN, hub_server
from huggingface_hub import constants
from tiny_export import tiny_cascade

from cascade.command_line import main as console
from cascade.errors import ConfigError, HubError, MissingExtraError, ModelFileError
from cascade.models.artifact import read_document
from cascade.models.hub import HubAddress, fetch
from cascade.models.runtimes import model_identity
from cascade.pipeline import Cascade

NAME = "clinic/moles"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The file of a small cascade."""
    path = tmp_path_factory.mktemp("model") / "cascade.safetensors"
    tiny_cascade().save(path)
    return path


@pytest.fixture(scope="module")
def server():
    with hub_server() as running:
        yield running


@pytest.fixture
def hub(server, tmp_path, monkeypatch):
    """An empty server, an empty cache, and no token."""
    server.repositories.clear()
    server.requests.clear()
    for name, value in {
        "ENDPOINT": server.address,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_TOKEN_PATH": str(tmp_path / "no_token"),
        "HF_STORED_TOKENS_PATH": str(tmp_path / "no_tokens"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
    }.items():
        monkeypatch.setattr(constants, name, value)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return server


def test_a_cascade_comes_back_as_it_was_sent(hub, lesion):
    address = tiny_cascade().push_to_hub(
        NAME, private=False, commit_message="First one", token=TOKEN
    )
    assert address == f"hf://{NAME}@{hub.repositories[NAME].branches['main']}"
    assert hub.repositories[NAME].messages[-1] == "First one"
    loaded = Cascade.load(address, device="cpu", runtime="torch")
    assert loaded.describe() == tiny_cascade().describe()
    expected, found = (each(lesion.image)[0] for each in (tiny_cascade(), loaded))
    assert found.probabilities == expected.probabilities
    assert np.array_equal(found.mask, expected.mask)


def test_what_is_sent_is_safetensors_and_a_card(hub, tmp_path):
    card = tmp_path / "card.md"
    card.write_text(
        "# Card\n![roc](images/roc.png) ![up](../up.png) ![away](https://x.example/a.png)"
    )
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "roc.png").write_bytes(b"\x89PNG roc")
    (tmp_path.parent / "up.png").write_bytes(b"\x89PNG elsewhere")
    tiny_cascade().push_to_hub(NAME, private=False, token=TOKEN, card=card)
    (files,) = [files for files in hub.repositories[NAME].commits.values() if files]
    assert set(files) == {"cascade.safetensors", "README.md", "images/roc.png"}
    text = files["README.md"].decode()
    assert text.startswith("---\nlibrary_name: cascade\n")
    assert text.endswith(card.read_text())


def test_without_a_card_a_short_one_says_that_there_are_no_numbers(hub, model):
    tiny_cascade().push_to_hub(NAME, private=False, token=TOKEN)
    text = list(hub.repositories[NAME].commits.values())[-1]["README.md"].decode()
    assert "Not a medical device" in text
    assert "No evaluation was published" in text
    assert model_identity(model) in text


def test_a_new_repository_is_private_unless_said_otherwise(hub):
    tiny_cascade().push_to_hub(NAME, token=TOKEN)
    assert hub.repositories[NAME].private
    with pytest.raises(HubError, match=f"{NAME}.*no such repository, or it is private"):
        fetch(f"hf://{NAME}")


@pytest.mark.parametrize("private", [True, False])
def test_nothing_is_sent_to_a_repository_that_others_see_differently(hub, private):
    hub.add(NAME, {}, private=not private)
    with pytest.raises(HubError, match=f"nothing was sent.*private={not private}"):
        tiny_cascade().push_to_hub(NAME, private=private, token=TOKEN)
    assert list(hub.repositories[NAME].commits.values()) == [{}]


def test_a_revision_stays_what_it_was(hub, model):
    content = model.read_bytes()
    repository = hub.add(NAME, {"cascade.safetensors": content, "old.safetensors": content})
    first = repository.branches["main"]
    repository.commit("main", {"cascade.safetensors": b"damaged"})
    repository.branches["refs/pr/1"] = first
    assert fetch(f"hf://{NAME}@{first}").read_bytes() == content
    assert fetch(f"hf://{NAME}@refs%2Fpr%2F1").read_bytes() == content
    assert fetch(f"hf://{NAME}/old.safetensors").read_bytes() == content
    with pytest.raises(ModelFileError, match=r"models--clinic--moles.*not a readable safetensors"):
        read_document(f"hf://{NAME}")


def test_a_branch_is_made_where_there_is_none(hub):
    for message in ("one", "two"):
        tiny_cascade().push_to_hub(
            NAME, private=False, revision="trial", token=TOKEN, commit_message=message
        )
    repository = hub.repositories[NAME]
    assert "cascade.safetensors" in repository.commits[repository.branches["trial"]]
    assert repository.commits[repository.branches["main"]] == {}


def test_what_was_fetched_is_there_without_a_network(hub, model, monkeypatch, caplog):
    hub.add(NAME, {"cascade.safetensors": model.read_bytes()})
    with caplog.at_level(logging.INFO, logger="cascade"):
        path = fetch(f"hf://{NAME}")
    assert hub.repositories[NAME].branches["main"] in caplog.text, "the commit is told"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    count = len(hub.requests)
    assert fetch(f"hf://{NAME}") == path
    with pytest.raises(HubError, match=r"cannot be reached, and was not fetched before.*OFFLINE"):
        fetch("hf://clinic/others")
    assert len(hub.requests) == count
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert fetch(f"hf://{NAME}") == path
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    with pytest.raises(
        HubError, match=r"hf://clinic/others/\S+: cannot be reached, 127.0.0.1 does"
    ):
        fetch("hf://clinic/others")
    with pytest.raises(HubError, match=f"hf://{NAME}: cannot be reached, 127.0.0.1 does not"):
        tiny_cascade().push_to_hub(NAME, token=TOKEN)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf://clinic/absent", "no such repository, or it is private and the token does not"),
        (f"hf://{NAME}@absent", "no such branch, tag or commit"),
        (
            f"hf://{NAME}/absent.safetensors",
            r"no such file; name another one, hf://OWNER/NAME/FILE",
        ),
        (f"hf://{NAME}/model.pkl", r"only .safetensors files are fetched"),
        (f"hf://{NAME}/../x.safetensors", r"only .safetensors files are fetched"),
        ("hf://moles", "expected hf://OWNER/NAME"),
        ("hf://a/b@", "expected hf://OWNER/NAME"),
        ("hf://../b", "expected hf://OWNER/NAME"),
        (f"hf://{NAME}/foreign.safetensors", "was not written by cascade"),
    ],
)
def test_what_cannot_be_loaded_is_named(hub, tmp_path, address, message):
    from safetensors.numpy import save

    foreign = save({"weight": np.zeros(2, np.float32)})
    hub.add(NAME, {"model.pkl": b"\x80\x04.", "foreign.safetensors": foreign})
    with pytest.raises(ModelFileError, match=message):
        Cascade.load(address)
    assert not any("model.pkl" in request for request in hub.requests)


@pytest.mark.parametrize("path", ["hf:/a/b", "HF://a/b", "https://huggingface.co/a/b"])
def test_what_was_meant_as_an_address_is_told_its_form(path):
    with pytest.raises(ModelFileError, match=r"no such model file; models on the hub are hf://OW"):
        Cascade.load(path)


def test_a_cache_that_cannot_be_written_to_is_told(hub, model, tmp_path, monkeypatch):
    hub.add(NAME, {"cascade.safetensors": model.read_bytes()})
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(HubError, match=f"hf://{NAME}.*cache cannot be written to .*HF_HOME"):
        fetch(f"hf://{NAME}")


def test_no_token_and_a_wrong_one_are_told(hub):
    with pytest.raises(
        HubError, match=r"needs a token; log in with hf auth login, or set HF_TOKEN"
    ):
        tiny_cascade().push_to_hub(NAME)
    assert hub.requests == []
    with pytest.raises(HubError, match=r"hf://clinic/moles: .*401"):
        tiny_cascade().push_to_hub(NAME, token="hf_wrong")


@pytest.mark.parametrize("name", ["moles", "hf://a/b", "a/b@v1", "a/b/c.safetensors", "a/b c"])
def test_a_repository_is_an_owner_and_a_name(hub, name):
    with pytest.raises(HubError, match=f"'{name}': expected OWNER/NAME.*revision names a branch"):
        tiny_cascade().push_to_hub(name, token=TOKEN)
    assert hub.requests == []


def test_a_message_that_the_client_refuses_is_told(hub):
    with pytest.raises(HubError, match=r"hf://clinic/moles: .*commit_message"):
        tiny_cascade().push_to_hub(NAME, token=TOKEN, commit_message="")


def test_an_exported_cascade_cannot_be_sent(hub, fake_cascade):
    with pytest.raises(ConfigError, match="only a cascade of torch networks"):
        fake_cascade.push_to_hub(NAME, token=TOKEN)


def test_a_card_that_is_not_there_is_named_before_anything_is_sent(hub):
    with pytest.raises(HubError, match=r"absent.md: the model card cannot be read"):
        tiny_cascade().push_to_hub(NAME, card="absent.md", token=TOKEN)
    assert hub.requests == []


def test_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'cascade\[hub\]'"):
        fetch(f"hf://{NAME}")


def test_an_address_is_read_and_written():
    address = HubAddress.parse("hf://a/b.c@v1/d/e.safetensors")
    assert address == HubAddress("a/b.c", "v1", "d/e.safetensors")
    assert HubAddress.parse(str(address)) == address
    assert HubAddress.parse("hf://a/b") == HubAddress("a/b", None, "cascade.safetensors")


def test_commands_take_a_model_of_the_hub(hub, model, tmp_path, capsys):
    hub.add(NAME, {"cascade.safetensors": model.read_bytes()})
    output = tmp_path / "card.md"
    code = console.main(["card", "--model", f"hf://{NAME}", "--output", str(output)])
    assert code == 0, capsys.readouterr().err
    assert output.read_text().startswith("# Model card: cascade.safetensors")
    assert f"next: cascade export --model hf://{NAME} " in capsys.readouterr().out
    assert console.main(["card", "--model", "hf://a/b", "--output", str(output) + "2"]) == 2
    assert "hf://a/b/cascade.safetensors: there is no such repository" in capsys.readouterr().err


@pytest.mark.slow
def test_the_variables_of_the_client_are_heeded(hub, model, tmp_path):
    hub.add(NAME, {"cascade.safetensors": model.read_bytes()})
    code = f"from cascade.models.hub import fetch; print(fetch('hf://{NAME}'))"
    for more in ({"HF_ENDPOINT": hub.address}, {"HF_HUB_OFFLINE": "1"}):
        variables = {**os.environ, "HF_HOME": str(tmp_path / "home"), **more}
        done = subprocess.run(
            [sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=False
        )
        assert done.stdout.strip().endswith("cascade.safetensors"), done.stderr
