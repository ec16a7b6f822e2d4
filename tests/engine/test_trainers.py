"""The recorder at the real trainers of transformers and Lightning: every training step once, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import modeconn_cli
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.samples import scores

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # those of libraries
]
N, C = 22, 3


def recorded(folder: Path, epoch: int) -> dict[str, np.ndarray]:
    with np.load(folder / f"dynamics_data_epoch_{epoch}.npz") as file:
        return dict(file)


def held(folder: Path, epochs: dict[int, dict[int, tuple[Tensor, int]]]) -> None:
    """What is in the folder is what a hook has seen: epoch -> id -> logits and label."""
    ids = np.load(folder / "sample_ids.npy").tolist()
    assert ids == list(range(N))
    for epoch, seen in epochs.items():
        logits = torch.stack([seen[i][0] for i in ids])
        expected = scores.of_logits(logits, torch.tensor([seen[i][1] for i in ids]))
        found = recorded(folder, epoch)
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values.float().numpy(), err_msg=name)


class Texts(torch.utils.data.Dataset[dict[str, Any]]):
    """Items with a column that the model does not take, which the trainer is to drop."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, k: int) -> dict[str, Any]:
        return {
            "input_ids": [2 + k, 3 + k % 5],
            "attention_mask": [1, 1],
            "labels": k % C,
            "text": f"sample {k}",
        }


class SeveralTexts(Texts):
    """As the data sets of `datasets` give a whole batch."""

    def __getitems__(self, places: list[int]) -> list[dict[str, Any]]:
        return [self[k] for k in places]


def hf_trainer(folder: Path, data: Any = None, **more: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=40,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=C,
    )
    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "trainer"), per_device_train_batch_size=4, gradient_accumulation_steps=2,
        report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True, eval_strategy="epoch", **more,
    )  # fmt: skip
    return transformers.Trainer(
        transformers.BertForSequenceClassification(config),
        arguments,
        train_dataset=data or Texts(),
        eval_dataset=Texts(),
    )


@pytest.mark.parametrize("data", [Texts, SeveralTexts])
def test_a_trainer_of_transformers_is_recorded_step_by_step(
    tmp_path: Path, mcx: Callable, data: type[Texts]
) -> None:
    trainer = hf_trainer(tmp_path, data(), num_train_epochs=2)
    seen: dict[int, dict[int, tuple[Tensor, int]]] = {1: {}, 2: {}}

    def hook(model: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        assert set(kwargs) <= {"input_ids", "attention_mask", "labels", "num_items_in_batch"}, set(kwargs)
        if model.training:
            epoch = 1 if len(seen[1]) < N else 2
            for row, logits in zip(kwargs["input_ids"], output.logits.detach().clone(), strict=True):
                k = int(row[0]) - 2
                assert k not in seen[epoch]
                seen[epoch][k] = logits, k % C

    trainer.model.register_forward_hook(hook, with_kwargs=True)
    rec = modeconn_cli.Recorder(tmp_path / "dynamics").attach(trainer)
    trainer.train()
    assert rec.last == 2
    again = hf_trainer(tmp_path, data(), num_train_epochs=2)
    modeconn_cli.Recorder(tmp_path / "dynamics").attach(again)
    with pytest.raises(InputError, match="holds epochs up to 2, and the trainer is at 0"):
        again.train()
    held(tmp_path / "dynamics", seen)
    assert "eval_loss" in trainer.evaluate()
    done = mcx("csl", "aggregate", "--input-dir", tmp_path / "dynamics", "--output-dir", tmp_path / "out")
    assert done.code == 0, done.err
    said = json.loads((tmp_path / "out/scores_data_run1_noise_0.json").read_text())
    assert "aum" in {row["name"] for row in said["scores"]}
    with pytest.raises(InputError, match="attached to this trainer already"):
        rec.attach(trainer)


def test_the_trainer_trains_the_same_with_a_recorder(tmp_path: Path) -> None:
    ends = []
    for name in ("with", "without"):
        trainer = hf_trainer(tmp_path / name, num_train_epochs=1)
        if name == "with":
            modeconn_cli.Recorder(tmp_path / "dynamics").attach(trainer)
        trainer.train()
        ends.append(torch.nn.utils.parameters_to_vector(trainer.model.parameters()).detach())
    assert torch.equal(*ends)


def test_an_epoch_that_the_trainer_does_not_end_is_not_recorded(tmp_path: Path) -> None:
    trainer = hf_trainer(tmp_path, max_steps=4)  # of 3 per epoch
    said: list[str] = []
    modeconn_cli.Recorder(tmp_path / "dynamics", warn=said.append).attach(trainer)
    trainer.train()
    assert said == ["epoch 2 has not ended, and is not recorded"]
    assert [path.name for path in (tmp_path / "dynamics").glob("loss_*")] == ["loss_data_epoch_1.npy"]


def test_a_data_set_without_places_is_refused(tmp_path: Path) -> None:
    trainer = hf_trainer(tmp_path, max_steps=1)
    trainer.train_dataset = iter([])
    with pytest.raises(InputError, match="has no places"):
        modeconn_cli.Recorder(tmp_path / "dynamics").attach(trainer)


def fit(folder: Path, output: Callable[..., Any], callback: Callable[[], Any], **more: Any) -> None:
    lightning = pytest.importorskip("lightning.pytorch")
    torch.manual_seed(0)
    x, y = torch.randn(N, 5), torch.arange(N) % C

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, C)

        def training_step(self, batch: Any, _index: int) -> Any:
            images, labels, ids = batch
            logits = self.layer(images)
            return output(nn.functional.cross_entropy(logits, labels), logits, labels, ids)

        def validation_step(self, batch: Any, _index: int) -> Any:
            return {
                "loss": torch.zeros(()),
                "ids": batch[2],
                "logits": self.layer(batch[0]),
                "labels": batch[1],
            }

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    data = torch.utils.data.TensorDataset(x, y, torch.arange(N))
    loaders = [torch.utils.data.DataLoader(data, batch_size=4, shuffle=shuffle) for shuffle in (True, False)]
    trainer = lightning.Trainer(
        callbacks=[callback()], accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        accumulate_grad_batches=2, **more,
    )  # fmt: skip
    trainer.fit(Module(), *loaders)


def test_a_trainer_of_lightning_is_recorded_step_by_step(tmp_path: Path) -> None:
    pytest.importorskip("lightning.pytorch")
    steps: list[dict[int, tuple[Tensor, int]]] = []

    def output(loss: Tensor, logits: Tensor, labels: Tensor, ids: Tensor) -> Any:
        z = logits.detach().clone()
        steps.append({int(i): (z[k], int(labels[k])) for k, i in enumerate(ids)})
        return {"loss": loss, "ids": ids, "logits": logits, "labels": labels}

    folder = tmp_path / "dynamics"
    fit(tmp_path, output, lambda: modeconn_cli.RecorderCallback(folder, ids=range(N)), max_epochs=2)
    epochs = [{i: each for step in steps[k : k + 6] for i, each in step.items()} for k in (0, 6)]
    held(folder, dict(enumerate(epochs, 1)))
    assert sorted(path.name for path in folder.glob("loss_*")) == [
        "loss_data_epoch_1.npy",
        "loss_data_epoch_2.npy",
    ]


def test_lightning_ends_within_an_epoch_and_what_a_step_returns_is_read_by_anyone(tmp_path: Path) -> None:
    pytest.importorskip("lightning.pytorch")
    folder, said = tmp_path / "dynamics", list[str]()
    fit(
        tmp_path,
        lambda loss, logits, labels, ids: {"loss": loss, "z": logits},
        lambda: modeconn_cli.RecorderCallback(
            folder, warn=said.append, read=lambda out, batch: (batch[2], out["z"], batch[1])
        ),
        max_steps=4,
    )
    assert said == ["epoch 2 has not ended, and is not recorded"]
    assert [path.name for path in folder.glob("loss_*")] == ["loss_data_epoch_1.npy"]


def test_a_step_of_lightning_that_returns_a_loss_alone_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("lightning.pytorch")
    with pytest.raises(InputError, match="training_step returns no ids, logits, labels") as caught:
        fit(
            tmp_path, lambda loss, logits, labels, ids: loss,
            lambda: modeconn_cli.RecorderCallback(tmp_path / "dynamics"), max_epochs=1,
        )  # fmt: skip
    assert "read=" in caught.value.hint
