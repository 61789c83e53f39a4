"""CoCa's architecture: what Table 1 counts, what the caption path may see, one pass for both losses."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import small
import torch
from small_coca import SOURCE, coca

from core.cli import main
from core.objectives import Objectives, Step
from core.types import Text, Tokens
from plugins.objectives.caption import Captioning
from plugins.objectives.itc import ImageTextContrast
from plugins.poolers.attentional import AttentionalPoolers
from registry.part import Part, PartError

PROJECTS = Path(__file__).parents[3] / "projects" / "coca"
PIECES = 64_000  # of the paper's vocabulary


def objectives(model, *names):
    made = {"itc": ImageTextContrast, "caption": Captioning}
    parts = {name: Part(made[name], name=name, kind="objective")() for name in names or made}
    return Objectives(model, parts, dict.fromkeys(parts, 1.0))


@pytest.mark.parametrize(
    ("size", "encoder", "decoder", "tolerance"),
    [("base", 86e6, 297e6, 0.01), ("large", 303e6, 484e6, 0.01), ("2b", 1.0e9, 1.1e9, 0.05)],
)
def test_parameters_of_table_1(size, encoder, decoder, tolerance, capsys):
    """The decoder's count includes its two embeddings, and no pooler. No vocabulary file is needed."""
    assert main(["check", str(PROJECTS / f"{size}.yaml"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    parts = report["parameters"]["parts"]
    assert set(parts) == {"backbone", "poolers", "decoder", "heads"}
    assert parts["backbone"] == pytest.approx(encoder, rel=tolerance)
    assert parts["decoder"] + parts["heads"] == pytest.approx(decoder, rel=tolerance)
    assert report["macs"]["total"] > 0


def test_a_vocabulary_file_of_the_papers_size_gives_the_same_report(tmp_path, capsys):
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (tmp_path / "vocab.txt").write_text("\n".join([*special, *(f"piece{i}" for i in range(PIECES - 5))]))
    reports = []
    for overrides in ([], [f"data.vocabulary={tmp_path}"]):
        assert main(["check", str(PROJECTS / "base.yaml"), *overrides, "--json"]) == 0
        reports.append(json.loads(capsys.readouterr().out))
    assert reports[0]["parameters"] == reports[1]["parameters"]
    assert reports[0]["macs"] == reports[1]["macs"]


def test_training_without_the_vocabulary_file_is_refused(tmp_path, capsys):
    assert main(["run", str(PROJECTS / "base.yaml"), f"run.folder={tmp_path}", "train.steps=1"]) == 2
    error = capsys.readouterr().err
    assert "vocabulary: no file or folder 'data/vocabulary'" in error
    assert "set data.vocabulary" in error


def test_one_pass_of_the_lower_half_serves_both_losses():
    model, batch = coca(), small.batch(SOURCE)
    calls = []
    model.decoder.unimodal[0].register_forward_hook(lambda _, x, y: calls.append(tuple(y.shape[:2])))
    objectives(model)(batch)
    assert calls == [(6, batch.text.ids.shape[1] + 1)], "the words, and [CLS] behind them"


def test_the_caption_path_cannot_see_cls():
    model, batch = coca(), small.batch(SOURCE)
    before = Step(model, batch)
    states = model.decoder(before.decoder_text, before.image).x
    with torch.no_grad():
        model.decoder.cls.normal_()
    after = Step(model, batch)
    assert torch.equal(model.decoder(after.decoder_text, after.image).x, states)
    assert not torch.allclose(after.text.pooled, before.text.pooled, atol=1e-3)
    objectives(model, "caption")(batch)[0].backward()
    assert model.decoder.cls.grad is None or not model.decoder.cls.grad.any()


def test_the_texts_feature_ignores_padding_and_sees_every_word():
    model, batch = coca(), small.batch(SOURCE)
    text, extra = batch.text, torch.zeros(6, 3, dtype=torch.long)
    longer = Text(torch.cat([text.ids, extra], 1), torch.cat([text.mask, extra.bool()], 1))
    one, other = model.encode_text(text), model.encode_text(longer)
    assert torch.allclose(one.pooled, other.pooled, atol=1e-5)
    length = text.ids.shape[1]
    assert torch.allclose(one.x[text.mask], other.x[:, :length][text.mask], atol=1e-5)
    for place in range(1, 4):
        ids = text.ids.clone()
        ids[:, place] = (ids[:, place] + 1) % SOURCE.tokenizer.vocabulary
        assert not torch.allclose(model.encode_text(Text(ids, text.mask)).pooled, one.pooled, atol=1e-4)


def test_a_later_word_changes_no_earlier_logit_of_the_caption():
    model, batch = coca(), small.batch(SOURCE)
    step = Step(model, batch)
    before = model.decoder(step.decoder_text, step.image).x
    ids = batch.text.ids.clone()
    ids[:, 4] = (ids[:, 4] + 1) % SOURCE.tokenizer.vocabulary
    after = model.decoder(model.encode_text(Text(ids, batch.text.mask)), step.image).x
    assert torch.allclose(after[:, :4], before[:, :4], atol=1e-6)
    assert not torch.allclose(after[:, 4:], before[:, 4:], atol=1e-4)


def test_losses_at_initialisation():
    """ln(vocabulary) for the caption; the contrast of random features at temperature 1 is near ln(batch)."""
    model, batch = coca(), small.batch(SOURCE)
    with torch.no_grad():
        _, losses = objectives(model)(batch)
    assert float(losses["caption"]) == pytest.approx(math.log(SOURCE.tokenizer.vocabulary), rel=0.05)
    assert losses["itc"].isfinite()


def test_reductions_of_the_caption_loss():
    model, batch = coca(), small.batch(SOURCE)
    with torch.no_grad():
        step = Step(model, batch)
        logits = model.heads["words"](model.decoder(step.decoder_text, step.image).x)
        chosen = logits[:, :-1].log_softmax(-1).gather(2, batch.text.ids[:, 1:, None]).squeeze(2)
        rows = [-row[kept] for row, kept in zip(chosen, batch.text.mask[:, 1:], strict=True)]
        mean = float(Captioning()(step))
        total = float(Captioning(reduction="sequence_sum")(step))
    assert mean == pytest.approx(float(torch.cat(rows).mean()), rel=1e-5)
    assert total == pytest.approx(sum(float(row.sum()) for row in rows) / len(rows), rel=1e-5)


@pytest.mark.parametrize("arrangement", ["cascade", "parallel"])
def test_poolers_by_hand(arrangement):
    """Against nn.MultiheadAttention with the same weights."""
    torch.manual_seed(0)
    pooler = AttentionalPoolers(queries=5, width=24, num_heads=3, arrangement=arrangement, dim=16).eval()
    x = torch.randn(2, 9, 16)

    def by_hand(part, source):
        attention = torch.nn.MultiheadAttention(24, 3, kdim=source.shape[2], vdim=source.shape[2], batch_first=True)
        own = part.attention
        state = {
            "q_proj_weight": own.query.weight,
            "k_proj_weight": own.key.weight,
            "v_proj_weight": own.value.weight,
            "in_proj_weight": torch.cat([own.query.weight, own.key.weight, own.value.weight])
            if source.shape[2] == 24
            else None,
            "in_proj_bias": torch.cat([own.query.bias, own.key.bias, own.value.bias]),
            "out_proj.weight": own.out.weight,
            "out_proj.bias": own.out.bias,
        }
        attention.load_state_dict({k: v for k, v in state.items() if k in attention.state_dict()})
        mixed, _ = attention(part.queries.expand(2, -1, -1), source, source)
        return part.norm(mixed)

    with torch.no_grad():
        out = pooler(Tokens(x))
        tokens = by_hand(pooler.captions, x)
        single = by_hand(pooler.contrast, tokens if arrangement == "cascade" else x)
    assert torch.allclose(out.x, tokens, atol=1e-5)
    assert torch.allclose(out.pooled, single[:, 0], atol=1e-5)


def test_a_cls_needs_a_layer_that_reads_it():
    with pytest.raises(PartError, match="cls needs at least one unimodal layer"):
        coca(unimodal=0)


def test_a_picture_that_nobody_pools_is_refused_where_a_head_reads_it(capsys):
    assert main(["check", str(PROJECTS / "pretrain.yaml"), "model.pooler=null"]) == 2
    said = capsys.readouterr()
    assert "pools nothing" in said.out + said.err
    assert "model.heads.image" in said.out + said.err
