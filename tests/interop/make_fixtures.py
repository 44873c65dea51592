"""Writes tiny dictionaries with the real libraries, and what these say of sixteen activations. Runs where they are installed.

    .interop/bin/python tests/interop/make_fixtures.py tests/golden/interop

Each goes into a folder of its own in the library's own format, with `expected.safetensors` (`x`, `codes`, `reconstruction`) beside it.
"""

import json
import sys
from pathlib import Path

import dictionary_learning.dictionary as dl
import numpy as np
import torch
from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
from dictionary_learning.trainers.top_k import AutoEncoderTopK
from dictionary_learning.utils import load_dictionary
from llamascopium.models.sae import SAEConfig, SparseAutoEncoder
from sae_lens import SAE, TrainingSAE
from sae_lens.registry import get_sae_class, get_sae_training_class
from sae_lens.saes.sae import SAEMetadata
from sae_lens.training.activation_scaler import ActivationScaler
from safetensors.torch import save_file
from sparsify import SparseCoder, SparseCoderConfig

D_IN, D_OUT, D_SAE, K = 8, 6, 24, 4
X = 2 * torch.randn(16, D_IN, generator=torch.Generator().manual_seed(1)) + 0.5
ORIGIN = {"model_name": "tiny", "hook_name": "blocks.1.hook_resid_post", "context_size": 32, "prepend_bos": False}


def fill(module: torch.nn.Module, seed: int = 0) -> None:
    """Random weights; thresholds above 0, the logarithms of thresholds around 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            draw = 0.4 * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(draw.abs() if name.endswith("threshold") and "log" not in name else draw)


def expect(folder: Path, codes: torch.Tensor, reconstruction: torch.Tensor, x: torch.Tensor = X) -> None:
    """What the library says. Codes must be neither empty nor full, or they would show little."""
    share = float((codes != 0).float().mean())
    assert 0.02 < share < 0.8, f"{folder}: {share:.2f} of the codes are active"
    tensors = {"x": x, "codes": codes, "reconstruction": reconstruction}
    save_file({name: tensor.detach().float().contiguous() for name, tensor in tensors.items()}, folder / "expected.safetensors")


def saelens(root: Path) -> None:
    """Every architecture of SAELens that it can load, as it saves them."""
    transcoder = {"apply_b_dec_to_input": False, "d_out": D_OUT}
    kinds: dict[str, dict[str, object]] = {
        "standard": {},
        "topk": {"k": K},
        "topk_rescaled": {"k": K, "rescale_acts_by_decoder_norm": True},
        "abstopk": {"k": K},
        "jumprelu": {},
        "jumprelu_unsubtracted": {"apply_b_dec_to_input": False},
        "gated": {},
        "gated_unsubtracted": {"apply_b_dec_to_input": False},
        "transcoder": transcoder,
        "skip_transcoder": transcoder,
        "jumprelu_transcoder": transcoder,
        "jumprelu_skip_transcoder": transcoder,
        "matching_pursuit": {"max_iterations": K, "residual_threshold": 0.0, "stop_on_duplicate_support": False},
    }
    for name, settings in kinds.items():
        kind, config = get_sae_class(name.removesuffix("_rescaled").removesuffix("_unsubtracted"))
        sae = kind(config(d_in=D_IN, d_sae=D_SAE, metadata=SAEMetadata(**ORIGIN), **settings))
        fill(sae)
        if name == "matching_pursuit":  # as its training leaves them
            sae.W_dec.data /= sae.W_dec.data.norm(dim=1, keepdim=True)
        sae.save_model(root / name)
        loaded = SAE.load_from_disk(root / name)
        expect(root / name, loaded.encode(X), loaded(X))


def saelens_before_6(root: Path) -> None:
    """Flat settings as version 5 wrote them, for ReLU and TopK."""
    flat = {"d_in": D_IN, "d_sae": D_SAE, "dtype": "float32", "device": "cpu", "model_name": "tiny", "hook_layer": 1, "prepend_bos": True}
    old = {
        "old_standard": {**flat, "hook_point": "blocks.1.hook_resid_post", "activation_fn_str": "relu", "normalize_activations": False},
        "old_topk": {**flat, "hook_name": "blocks.1.hook_resid_post", "activation_fn": "topk", "activation_fn_kwargs": {"k": K}},
    }
    for name, settings in old.items():
        kind, config = get_sae_class(name.removeprefix("old_"))
        sae = kind(config(d_in=D_IN, d_sae=D_SAE))
        fill(sae)
        (root / name).mkdir()
        save_file({**sae.state_dict(), "scaling_factor": torch.ones(D_SAE)}, root / name / "sae_weights.safetensors")
        (root / name / "cfg.json").write_text(json.dumps(settings))
        loaded = SAE.load_from_disk(root / name)
        expect(root / name, loaded.encode(X), loaded(X))


def saelens_in_training(root: Path) -> None:
    """Checkpoints: BatchTopK with its threshold, and with the scale of the activations still beside the weights."""
    for name, scale in {"checkpoint_batchtopk": None, "checkpoint_matryoshka": None, "checkpoint_batchtopk_scaled": 0.7}.items():
        architecture = "matryoshka_batchtopk" if "matryoshka" in name else "batchtopk"
        kind, config = get_sae_training_class(architecture)
        widths = {"matryoshka_widths": [6, 12, D_SAE]} if "matryoshka" in name else {}
        normalise = "none" if scale is None else "expected_average_only_in"
        sae = kind(config(d_in=D_IN, d_sae=D_SAE, k=K, normalize_activations=normalise, metadata=SAEMetadata(**ORIGIN), **widths))
        fill(sae)
        sae.topk_threshold.fill_(1.3)
        sae.save_model(root / name)
        loaded = TrainingSAE.load_from_disk(root / name)
        if scale is not None:
            ActivationScaler(scaling_factor=scale).save(str(root / name / "activation_scaler.json"))
            loaded.fold_activation_norm_scaling_factor(scale)
        loaded.save_inference_model(root / "finished")
        finished = SAE.load_from_disk(root / "finished")
        expect(root / name, finished.encode(X), finished(X))
        for file in (root / "finished").iterdir():
            file.unlink()
        (root / "finished").rmdir()


def sparsify(root: Path) -> None:
    """TopK by number of latents and by expansion factor; transcoders with and without a skip connection."""
    settings = {
        "layers.1": {"num_latents": D_SAE},
        "layers.1.mlp": {"num_latents": 0, "expansion_factor": D_SAE // D_IN},
        "layers.2.mlp": {"num_latents": D_SAE, "transcode": True},
        "layers.3.mlp": {"num_latents": D_SAE, "transcode": True, "skip_connection": True},
    }
    (root / "config.json").write_text(json.dumps({"model": "tiny"}))
    for name, config in settings.items():
        coder = SparseCoder(D_IN, SparseCoderConfig(k=K, **config))
        fill(coder)
        coder.save_to_disk(root / name)
        loaded = SparseCoder.load_from_disk(root / name)
        values, indices, _ = loaded.encode(X)
        expect(root / name, torch.zeros(len(X), D_SAE).scatter(1, indices, values), loaded(X).sae_out)


def dictionary_learning(root: Path) -> None:
    """Every class that the library loads."""
    groups = [6, 6, 12]
    made = {
        "AutoEncoder": dl.AutoEncoder(D_IN, D_SAE),
        "AutoEncoderNew": dl.AutoEncoderNew(D_IN, D_SAE),
        "GatedAutoEncoder": dl.GatedAutoEncoder(D_IN, D_SAE),
        "AutoEncoderTopK": AutoEncoderTopK(D_IN, D_SAE, K),
        "BatchTopKSAE": BatchTopKSAE(D_IN, D_SAE, K),
        "MatryoshkaBatchTopKSAE": MatryoshkaBatchTopKSAE(D_IN, D_SAE, K, groups),
        "JumpReluAutoEncoder": dl.JumpReluAutoEncoder(D_IN, D_SAE),
    }
    for name, autoencoder in made.items():
        fill(autoencoder)
        if hasattr(autoencoder, "k"):
            autoencoder.threshold.fill_(0.8)
        (root / name).mkdir()
        torch.save(autoencoder.state_dict(), root / name / "ae.pt")
        trainer = {"dict_class": name, "activation_dim": D_IN, "dict_size": D_SAE, "k": K, "layer": 1, "lm_name": "tiny"}
        trainer["submodule_name"] = "resid_post_layer_1"
        (root / name / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"d_submodule": D_IN, "io": "out"}}))
        loaded, _ = load_dictionary(str(root / name), "cpu")
        codes = loaded.encode(X)
        expect(root / name, codes, loaded.decode(codes))


def llama_scope(root: Path) -> None:
    """llamascopium's SAEs, with the norm of the activations beside the weights and with it folded in."""
    hook = "blocks.1.hook_resid_post"
    for name, act, norm in [("relu", "relu", 5.0), ("topk", "topk", 5.0), ("jumprelu", "jumprelu", 5.0), ("inference", "relu", None)]:
        settings = {"act_fn": act, "top_k": K, "norm_activation": "dataset-wise" if norm else "inference", "dtype": torch.float32}
        config = SAEConfig(hook_point_in=hook, hook_point_out=hook, d_model=D_IN, expansion_factor=D_SAE / D_IN, device="cpu", **settings)
        sae = SparseAutoEncoder(config)
        fill(sae)
        if norm:
            sae.set_dataset_average_activation_norm({hook: norm})
        (root / name).mkdir()
        sae.save_pretrained(str(root / name))
        config.save_hyperparameters(str(root / name))
        loaded = SparseAutoEncoder.from_config(config)
        loaded.load_full_state_dict(sae.full_state_dict() if norm else sae.state_dict())
        loaded.set_current_k(K)
        batch, factors = loaded.normalize_activations({hook: X}, return_scale_factor=True)
        codes = loaded.encode(batch[hook])
        written = loaded.denormalize_activations({hook: loaded.decode(codes)}, factors)[hook]
        # With TopK, features are ranked by activation times decoder norm, and saelab gives their activations in that unit: by how much
        # they move raw activations.
        expect(root / name, codes * loaded.decoder_norm() / factors[hook] if act == "topk" else codes, written)


def gemma_scope(root: Path) -> None:
    """The arrays of Gemma Scope, in the order of its own tutorial; SAELens' JumpReLU says what they mean."""
    kind, config = get_sae_class("jumprelu")
    sae = kind(config(d_in=D_IN, d_sae=D_SAE, apply_b_dec_to_input=False))
    fill(sae)
    folder = root / "layer_1"
    folder.mkdir()
    np.savez(folder / "params.npz", **{name: tensor.numpy() for name, tensor in sae.state_dict().items()})
    expect(folder, sae.encode(X), sae(X))


def main(root: Path) -> None:
    """All of them, each library in a folder of its own."""
    torch.manual_seed(0)
    makers = {"saelens": (saelens, saelens_before_6, saelens_in_training), "sparsify": (sparsify,), "llama_scope": (llama_scope,)}
    makers |= {"dictionary_learning": (dictionary_learning,), "gemma_scope": (gemma_scope,)}
    with torch.no_grad():
        for name, functions in makers.items():
            (root / name).mkdir(parents=True)
            for make in functions:
                make(root / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
