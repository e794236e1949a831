"""The trainer on other people's models: tied weights, adapters, bf16, checkpointing, export."""

import dataclasses
import importlib.util
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from longcat_gspo import ClipRange, GspoTrainer, MismatchWarning, Sample, TrainerConfig
from safetensors.torch import load as load_safetensors

pytest.importorskip("transformers")
pytest.importorskip("peft")
_spec = importlib.util.spec_from_file_location("gspo_models", Path(__file__).with_name("models.py"))
models = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(models)
llama, sampled, with_lora = models.llama, models.sampled, models.with_lora
WIDE = ClipRange(low=0.5, high=0.5)


def _logits(model, ids=((1, 2, 3, 4, 5),)):
    with torch.no_grad():
        return model.eval()(torch.tensor(ids)).logits.float()


def _share_moved(trainer, samples):
    before = torch.cat([p.detach().flatten().clone() for p in trainer.model.parameters()])
    trainer.train(samples)
    after = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
    return (after != before).float().mean().item()


def test_bf16_weights_move_at_a_small_rate():
    kept, lost = llama(dtype=torch.bfloat16), llama(dtype=torch.bfloat16)
    samples = [dataclasses.replace(s, log_probs=None) for s in sampled(kept)]
    config = TrainerConfig(learning_rate=1e-6)
    assert _share_moved(GspoTrainer(kept, config), samples) > 0.9
    without = dataclasses.replace(config, master_weights=False)
    assert _share_moved(GspoTrainer(lost, without), samples) < 0.1  # what it is good for


def test_masters_and_moments_survive_a_restart(tmp_path):
    def trained(steps, trainer=None):
        trainer = trainer or GspoTrainer(llama(dtype=torch.bfloat16), config)
        for step in steps:
            trainer.train(batches[step])
        return trainer

    config = TrainerConfig(learning_rate=1e-4)
    fresh = llama(dtype=torch.bfloat16)
    batches = [[dataclasses.replace(s, log_probs=None) for s in sampled(fresh, seed=n)]
               for n in range(3)]  # fmt: skip
    whole = trained(range(3))
    trained(range(2)).save(tmp_path)
    other = GspoTrainer(llama(dtype=torch.bfloat16), config)
    other.restore(tmp_path)
    assert trained([2], other).weights() == whole.weights()


def test_an_engine_in_bf16_costs_no_gradient_on_policy():
    """GSPO's clip is narrower than bf16's rounding: against the engine, it clips on policy."""
    for trains_in, engine in ((torch.bfloat16, None), (torch.float32, torch.bfloat16)):
        model = with_lora(llama(dtype=trains_in, vocab=64, initializer_range=0.2))
        samples = sampled(model, dtype=engine, groups=6, length=24)
        against = GspoTrainer(model, TrainerConfig(old_log_probs="engine"))
        assert against.train(samples)["clip_share"] > 0.1
        model = with_lora(llama(dtype=trains_in, vocab=64, initializer_range=0.2))
        trainer = GspoTrainer(model, TrainerConfig())
        with pytest.warns(MismatchWarning, match="own"):
            metrics = trainer.train(samples)
        assert metrics["clip_share"] == 0
        assert metrics["ratio_max"] == metrics["ratio_mean"] == 1
        assert metrics["mismatch_ratio"] > 3e-4
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # once is enough
            trainer.train(samples)


def test_an_engine_that_agrees_keeps_its_log_probs_also_when_they_grow_old():
    model = llama()
    samples = sampled(model)
    trainer = GspoTrainer(model, TrainerConfig(clip=WIDE, learning_rate=1e-3))
    first = trainer.train(samples)
    assert first["ratio_max"] == pytest.approx(1, abs=1e-4)
    assert first["mismatch_kl"] < 1e-8
    second = trainer.train(samples)  # of weights one step older: what was learned shows
    assert second["ratio_max"] > 1.001


def test_older_versions_say_nothing_about_the_engine():
    model = llama()
    stale = [dataclasses.replace(s, version=3) for s in sampled(llama(seed=9))]
    metrics = GspoTrainer(model, TrainerConfig(clip=WIDE)).train(stale)
    assert "mismatch_kl" not in metrics
    assert metrics["ratio_max"] != 1


def test_log_probs_none_are_computed():
    model = llama()
    samples = sampled(model)
    none = [dataclasses.replace(s, log_probs=None) for s in samples]
    one = GspoTrainer(llama(), TrainerConfig(clip=WIDE, epochs=2, old_log_probs="engine"))
    other = GspoTrainer(llama(), TrainerConfig(clip=WIDE, epochs=2))
    a, b = one.train(samples), other.train(none)
    assert a["ratio_max"] == pytest.approx(b["ratio_max"], abs=1e-5)
    assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)
    assert ("behaviour_kl" in a, "behaviour_kl" in b) == (True, False)


# -- the sampling's distribution ---------------------------------------------------------------


def test_the_trainer_knows_the_temperature():
    model = llama()
    samples = sampled(model, temperature=0.7)
    metrics = GspoTrainer(model, TrainerConfig(temperature=0.7)).train(samples)
    assert metrics["ratio_max"] == pytest.approx(1, abs=2e-4)
    assert metrics["clip_share"] == 0
    with pytest.warns(MismatchWarning, match="another temperature"):
        GspoTrainer(llama(vocab=64), TrainerConfig()).train(
            sampled(llama(vocab=64, initializer_range=0.5), temperature=0.3)
        )


def test_truncated_sampling_is_corrected_where_it_is_known_and_refused_where_not():
    model = llama()
    samples = sampled(model, top_k=5)
    metrics = GspoTrainer(model, TrainerConfig(top_k=5)).train(samples)
    assert metrics["ratio_max"] == pytest.approx(1, abs=2e-4)
    with pytest.raises(ValueError, match="truncated"):
        GspoTrainer(llama(), TrainerConfig()).train(samples)


@pytest.mark.parametrize("sampling", [{"top_k": 5}, {"top_p": 0.8}])
def test_an_engine_that_tells_log_probs_of_all_words_costs_no_gradient(sampling):
    """As vLLM does by default: the trainer knows of what words were drawn, the engine's do not."""
    mine = {"vocab": 64, "initializer_range": 0.2}
    samples = []
    for sample in sampled(llama(**mine), top_k=5):
        with torch.no_grad():
            logits = llama(**mine)(torch.tensor([sample.token_ids])).logits[0]
        whole = logits.log_softmax(-1)
        logs = [whole[n - 1, sample.token_ids[n]].item() if learned else 0.0
                for n, learned in enumerate(sample.loss_mask)]  # fmt: skip
        samples.append(dataclasses.replace(sample, log_probs=logs))
    with pytest.warns(MismatchWarning, match="against the trainer's own"):
        metrics = GspoTrainer(llama(**mine), TrainerConfig(**sampling)).train(samples)
    assert metrics["clip_share"] == 0
    assert metrics["ratio_max"] == metrics["ratio_mean"] == 1


@pytest.mark.parametrize(
    "sampling", [{"top_k": 3}, {"top_p": 0.6}, {"temperature": 0.5, "top_k": 4}]
)
def test_the_gradient_is_that_of_the_truncated_policy(sampling):
    """By enumeration of one-token answers: sum over kept words of pi(w) A(w) grad log pi(w)."""
    rewards = torch.linspace(-1, 1, 24)
    model = llama()
    logits = model(torch.tensor([[5, 6]])).logits[0, -1] / sampling.get("temperature", 1.0)
    order = logits.detach().sort(descending=True).indices.tolist()
    kept, mass = [], 0.0
    for word in order:
        if len(kept) >= sampling.get("top_k", 24) or mass >= sampling.get("top_p", 1.0):
            break
        kept.append(word)
        mass += logits.detach().softmax(-1)[word].item()
    log_probs = logits[kept].log_softmax(-1)
    advantage = rewards[kept] - (log_probs.exp() * rewards[kept]).sum().detach()
    (-(log_probs.exp().detach() * advantage * log_probs).sum()).backward()
    exact = torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item()
    batch = [
        Sample(token_ids=[5, 6, word], loss_mask=[False, False, True], log_probs=None, group=str(n),
               reward=float(a) * len(kept) * p)
        for n, (word, a, p) in enumerate(zip(kept, advantage, log_probs.exp().tolist(),
        strict=True))
    ]  # fmt: skip
    config = TrainerConfig(baseline="none", max_grad_norm=1e9, **sampling)
    metrics = GspoTrainer(llama(), config).train(batch)
    assert metrics["grad_norm"] == pytest.approx(exact, rel=1e-4)


# -- where and how it trains -------------------------------------------------------------------


def test_a_model_is_trained_where_it_is():
    model = llama()
    moved = []
    plain_to = model.to
    model.to = lambda *a, **k: moved.append(a) or plain_to(*a, **k)
    assert GspoTrainer(model, TrainerConfig()).device == torch.device("cpu")
    assert not moved


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_model_on_a_gpu_is_trained_there():
    model = llama().cuda()
    trainer = GspoTrainer(model, TrainerConfig())
    samples = [dataclasses.replace(s, log_probs=None) for s in sampled(llama())]
    trainer.train(samples)
    assert next(model.parameters()).device.type == "cuda" == trainer.device.type
    assert "lm_head.weight" not in load_safetensors(trainer.weights())


@pytest.mark.parametrize("adapts", [False, True])
def test_checkpointing_is_really_on(adapts):
    model = llama()
    model.gradient_checkpointing_enable()
    calls = []
    model.model.layers[0].self_attn.register_forward_hook(lambda *_: calls.append(1))
    model.eval()
    trainer = GspoTrainer(
        with_lora(model) if adapts else model, TrainerConfig(old_log_probs="trainer")
    )
    model.eval()  # as whoever generated in between left it
    trainer.train(sampled(llama(), groups=2, size=4))
    assert len(calls) == 2  # forward, and again in backward
    assert model.training


def test_dropout_is_off_in_rl_and_on_in_supervised_learning():
    model = with_lora(llama(), lora_dropout=0.5)
    samples = sampled(model)
    trainer = GspoTrainer(model, TrainerConfig())
    assert trainer.train(samples)["ratio_max"] == pytest.approx(1, abs=1e-4)
    losses = [GspoTrainer(with_lora(llama(), lora_dropout=0.5),
    TrainerConfig()).fit(samples)["loss"],
              trainer.evaluate(samples)]  # fmt: skip
    assert losses[0] != pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("adapts", [False, True])
def test_packed_rows_train_the_same(adapts):
    norms = []
    for packed in (False, True):
        model = with_lora(llama()) if adapts else llama()
        samples = sampled(llama(), groups=2, size=4)
        samples = [
            dataclasses.replace(s, token_ids=s.token_ids[: 6 + n], loss_mask=s.loss_mask[: 6 + n],
                                log_probs=s.log_probs[: 6 + n])
            for n, s in enumerate(samples)
        ]  # fmt: skip
        config = TrainerConfig(clip=WIDE, packed=packed, old_log_probs="engine")
        norms.append(GspoTrainer(model, config).train(samples)["grad_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


class _Blind(torch.nn.Module):
    """Takes position_ids and does not look at them: each token sees all before it."""

    def __init__(self, *, takes_positions=True):
        super().__init__()
        self.embed = torch.nn.Embedding(16, 16)
        if not takes_positions:
            self.forward = lambda ids: self._logits(ids)

    def _logits(self, ids):
        return SimpleNamespace(logits=self.embed(ids).cumsum(1))

    def forward(self, ids, position_ids=None, attention_mask=None):
        return self._logits(ids)


def test_packing_is_refused_where_sequences_would_see_each_other():
    for model, said in (
        (_Blind(), "tells sequences in one row apart"),
        (_Blind(takes_positions=False), "takes position_ids"),
    ):
        with pytest.raises(ValueError, match=said):
            GspoTrainer(model, TrainerConfig(packed=True))


_TINY = {"vocab_size": 24, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4,
         "num_key_value_heads": 2, "num_hidden_layers": 2}  # fmt: skip


def test_what_leaks_in_a_new_model_whose_logits_are_small_is_found_too():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    leaks = transformers.Lfm2ForCausalLM(
        transformers.Lfm2Config(**_TINY, layer_types=["conv", "full_attention"])
    )
    with pytest.raises(ValueError, match="tells sequences in one row apart"):
        GspoTrainer(leaks, TrainerConfig(packed=True))
    capped = transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**_TINY, head_dim=8))
    with pytest.raises(ValueError, match=r"further, by final_logit_softcapping=30\.0"):
        GspoTrainer(capped, TrainerConfig(chunked_log_probs=True))
    capped.config.final_logit_softcapping = None
    for option in ("packed", "chunked_log_probs"):
        GspoTrainer(capped, TrainerConfig(**{option: True}))


def test_a_model_of_which_nothing_is_trained_is_refused():
    with pytest.raises(ValueError, match="at least one parameter that requires a gradient"):
        GspoTrainer(llama().requires_grad_(False), TrainerConfig())


def test_chunked_log_probs_with_an_adapter_on_the_output_are_refused_by_its_name():
    import peft

    config = peft.LoraConfig(r=4, target_modules=["lm_head"])
    model = peft.get_peft_model(llama(tie_word_embeddings=False), config)
    with pytest.raises(ValueError, match="without bias, got an adapter on Linear"):
        GspoTrainer(model, TrainerConfig(chunked_log_probs=True))


def test_chunked_log_probs_with_an_adapter():
    samples, metrics = sampled(with_lora(llama())), []
    for chunked in (False, True):
        config = TrainerConfig(clip=WIDE, chunked_log_probs=chunked, temperature=0.8,
                               old_log_probs="trainer")  # fmt: skip
        metrics.append(GspoTrainer(with_lora(llama()), config).train(samples))
    assert metrics[0]["grad_norm"] == pytest.approx(metrics[1]["grad_norm"], rel=1e-4)
    assert metrics[0]["entropy"] == pytest.approx(metrics[1]["entropy"], rel=1e-5)


@pytest.mark.parametrize("reference", [5, "frozn", {"a": 1}])
def test_a_reference_that_is_no_model_is_refused(reference):
    with pytest.raises(ValueError, match="reference must be a model or 'frozen', got"):
        GspoTrainer(llama(), TrainerConfig(), reference=reference)


@pytest.mark.parametrize("config", [{"learning_rate": 1e-3}, None, 1e-3])
def test_a_config_of_another_kind_is_refused(config):
    with pytest.raises(TypeError, match="config must be a TrainerConfig, got"):
        GspoTrainer(llama(), config)


def test_a_reference_that_is_the_model_is_refused_and_a_copy_stays_what_it_was():
    model = llama()
    with pytest.raises(ValueError, match="shares weights"):
        GspoTrainer(model, TrainerConfig(), reference=model)
    adapted = with_lora(llama())
    with pytest.raises(ValueError, match="shares weights"):
        GspoTrainer(adapted, TrainerConfig(), reference=adapted.get_base_model())
    with pytest.raises(ValueError, match="'frozen'"):
        GspoTrainer(model, TrainerConfig(), reference="copy")
    trainer = GspoTrainer(model, TrainerConfig(learning_rate=1e-2), reference="frozen")
    samples = sampled(llama())
    assert trainer.train(samples)["reference_kl"] == 0
    assert trainer.train(samples)["reference_kl"] > 1e-4


def test_with_an_adapter_the_reference_is_the_model_without_it():
    samples = sampled(llama())
    config = TrainerConfig(clip=WIDE, old_log_probs="engine")
    switched = GspoTrainer(with_lora(llama()), config, reference="frozen").train(samples)
    apart = GspoTrainer(with_lora(llama()), config, reference=llama()).train(samples)
    assert switched["reference_kl"] == pytest.approx(apart["reference_kl"], rel=1e-3)
    assert switched["reference_kl"] > 1e-3


# -- what is written ---------------------------------------------------------------------------


def test_a_checkpoint_of_an_adapter_holds_the_adapter_and_resumes_exactly(tmp_path):
    def trained(steps, trainer):
        for step in steps:
            trainer.train(batches[step])
        return trainer

    batches = [sampled(with_lora(llama()), seed=n) for n in range(3)]
    config = TrainerConfig(clip=WIDE, old_log_probs="engine")
    whole = trained(range(3), GspoTrainer(with_lora(llama()), config, send="adapter"))
    part = trained(range(2), GspoTrainer(with_lora(llama()), config))
    part.save(tmp_path)
    num_trained = sum(p.numel() for p in part.model.parameters() if p.requires_grad)
    saved = torch.load(tmp_path / "trainer.pt", weights_only=True)
    assert sum(t.numel() for t in saved["model"].values()) == num_trained
    other = GspoTrainer(with_lora(llama()), config, send="adapter")
    other.restore(tmp_path)
    assert trained([2], other).weights() == whole.weights()
    assert other.num_batches == 3
    with pytest.raises(ValueError, match="must be of this model"):
        GspoTrainer(llama(), config).restore(tmp_path)


@pytest.mark.parametrize("kind", ["plain", "bf16", "lora"])
def test_the_exported_folder_is_what_was_trained(tmp_path, kind):
    from transformers import AutoModelForCausalLM

    model = llama(dtype=torch.bfloat16 if kind == "bf16" else torch.float32)
    model = with_lora(model) if kind == "lora" else model
    trainer = GspoTrainer(model, TrainerConfig(learning_rate=1e-2, clip=WIDE))
    samples = [dataclasses.replace(s, log_probs=None) for s in sampled(llama())]
    trainer.train(samples)
    told = []
    tokenizer = SimpleNamespace(save_pretrained=told.append)
    trainer.export(tmp_path, tokenizer=tokenizer)
    assert told == [str(tmp_path)]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.dtype == (torch.bfloat16 if kind == "bf16" else torch.float32)
    torch.testing.assert_close(_logits(loaded), _logits(model),
    atol=2e-2 if kind == "bf16" else 1e-5,
                               rtol=1e-3)  # fmt: skip
    state = load_safetensors(trainer.weights())
    assert all(torch.equal(state[k], v) for k, v in loaded.state_dict().items() if k in state)
    if kind == "lora":
        import peft

        trainer.export(tmp_path / "adapter", only_adapter=True)
        again = peft.PeftModel.from_pretrained(llama(), tmp_path / "adapter")
        assert torch.equal(_logits(again), _logits(model))
    else:
        with pytest.raises(ValueError, match="only_adapter needs"):
            trainer.export(tmp_path / "adapter", only_adapter=True)


def test_norms_and_biases_do_not_decay_and_the_optimiser_is_by_choice():
    made = []

    def sgd(groups):
        made.extend(groups)
        return torch.optim.SGD(groups)

    model = llama(attention_bias=True)
    GspoTrainer(model, TrainerConfig(weight_decay=0.1), optimizer=sgd)
    assert [group["weight_decay"] for group in made] == [0.1, 0.0]
    vectors = {
        name for name, p in model.named_parameters() if any(p is q for q in made[1]["params"])
    }
    assert vectors == {n for n, _ in model.named_parameters() if "norm" in n or n.endswith("bias")}


def test_another_optimizer_trains_and_is_restored(tmp_path):
    """Torch's own Muon, for matrices: those of an adapter are nothing else."""
    makes = {"optimizer": lambda groups: torch.optim.Muon(list(groups))}
    config = TrainerConfig(clip=WIDE, old_log_probs="trainer")
    trainer = GspoTrainer(with_lora(llama()), config, **makes)
    assert trainer.train(sampled(llama()))["grad_norm"] > 0
    trainer.save(tmp_path)
    other = GspoTrainer(with_lora(llama()), config, **makes)
    other.restore(tmp_path)
    batch = sampled(llama(), seed=1)
    assert other.train(batch)["loss"] == trainer.train(batch)["loss"]
    pairs = zip(trainer.model.parameters(), other.model.parameters(), strict=True)
    assert all(mine.equal(theirs) for mine, theirs in pairs)
