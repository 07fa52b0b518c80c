"""Text without pictures: models with one tokenizer, and members of a family, draft for each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from typer.testing import CliRunner

from eval.drafting.text import is_right
from tofc.cli.app import app
from tofc.drafting.speculate import TextModel
from tofc.familial.branches import Branch, decomposed_block
from tofc.familial.decomposition import spectra, watch_inputs
from tofc.familial.store import save_family
from tofc.familial.views import main_spec
from tofc.language.model import text_model
from tofc.training.base_model import build_tokenizer

TEXTS = ["What is 7 times 8?", "Add 3 and 4.", "Count to five."]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small and a large model with one tokenizer, the large one also as a family with a member e1."""
    folder = tmp_path_factory.mktemp("texts")
    tokenizer = build_tokenizer(TEXTS * 50, 400)
    for seed, (name, layers) in enumerate((("small", 1), ("large", 3))):
        config = Qwen2Config(
            hidden_size=32, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=2,
            num_key_value_heads=2, vocab_size=len(tokenizer), tie_word_embeddings=True,
            initializer_range=0.3, eos_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = Qwen2ForCausalLM(config).eval().requires_grad_(False)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    model.save_pretrained(folder / "family" / "base")
    tokenizer.save_pretrained(folder / "family" / "base")
    block = text_model(model).layers[1]
    with watch_inputs({1: block}) as seen, torch.no_grad():
        model(torch.arange(400)[None] % len(tokenizer))
    branch = Branch("e1", 1, [decomposed_block(block, spectra(block, seen[1]))])
    where = folder / "family"
    save_family(where / "family", where / "base", main_spec(model), [branch], torch.float32)
    return folder


def run(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["eval", "drafting", "text", *map(str, words)])
    return done.exit_code, done.stdout or repr(done.exception)


@pytest.mark.parametrize("tiers", [("small", "large"), ("family@e1", "family")])
def test_answers_are_those_of_the_last_tier(models: Path, tiers: tuple[str, ...], tmp_path: Path) -> None:
    large = TextModel.from_pretrained(str(models / "large"))
    prompt = large.prompt(b"", TEXTS[0])
    ids = large.family.main.generate(prompt.ids[None], max_new_tokens=12, do_sample=False)
    said = large.tokenizer.decode(ids[0, prompt.length :], skip_special_tokens=True)
    rows = [
        {"problem": TEXTS[0], "answer": said},
        {"prompt": TEXTS[1]},
        {"question": TEXTS[2], "answer": "x"},
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    chosen = [word for name in tiers for word in ("--tier", models / name)]
    code, output = run(tmp_path / "p.jsonl", *chosen, "--max-new-tokens", 12, "--drafts", 3, "--json")
    assert code == 0, output
    found = json.loads(output)["rows"]
    assert [row["system"].count(" + ") for row in found] == [0, 0, 1]
    assert found[2]["equal"] == found[1]["equal"] == 3
    assert found[2]["tokens"] == found[1]["tokens"] > 0
    assert (found[1]["of"], found[2]["right"]) == (2, found[1]["right"])
    assert found[1]["right"] >= 1


def test_tiers_and_files_that_do_not_fit_are_refused(models: Path, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"text": "no prompt"}\n')
    assert run(tmp_path / "p.jsonl", "--tier", models / "small")[0] == 2
    (tmp_path / "p.jsonl").write_text('{"problem": "1 + 1?"}\n')
    wrong = ("--tier", models / "large", "--tier", models / "small", "--max-new-tokens", 2)
    assert run(tmp_path / "p.jsonl", *wrong)[0] == 2  # the smallest first


def test_right_answers_end_in_the_answer() -> None:
    assert is_right("so it is \\\\boxed{\\\\frac{1}{2}}".replace("\\\\", "\\"), "\\frac{1}{2}")
    assert is_right("7 times 8 is 56.", "56")
    assert not is_right("56, or rather 57", "56")
