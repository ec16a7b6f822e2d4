"""Label noise: a share of the training file's labels, each flipped to another class.

Whether a label is flipped, and to what, depends on the seed and the sample's id alone where the noise is `uniform` or
`asymmetric`, so that every command that reads the run's checkpoints finds the labels it was trained on. Flips of a
teacher (`instance`) and those of a file are kept beside the checkpoints, by id, and are read back from there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modeconn_cli.engine import keyed
from modeconn_cli.engine.datasets import noise_files
from modeconn_cli.engine.datasets.class_map import map_of, map_text
from modeconn_cli.engine.datasets.remembered import NOISE
from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.settings.shared import DataSettings


@dataclass(frozen=True)
class Flips:
    """Labels of the training file, int64 [N] each, beside its ids.

    `share` is what was asked for, of a file what is flipped; `seed` is None for a file. `map` is what classes become,
    `0:1,1:2`, of asymmetric noise, `source` the file that flips were read from. `known` bool [N] says of which samples
    a file or a teacher told the labels; None: of all.
    """

    share: float
    seed: int | None
    ids: Tensor
    clean: Tensor
    trained: Tensor
    kind: str = "uniform"
    map: str | None = None
    source: str | None = None
    known: Tensor | None = None

    @property
    def flipped(self) -> Tensor:
        """bool [N]."""
        return self.clean != self.trained

    def table(self) -> str:
        """CSV, a line per sample of the training file."""
        columns = (self.ids, self.clean, self.trained, self.flipped.long())
        told = slice(None) if self.known is None else self.known
        rows = zip(*(column[told].tolist() for column in columns), strict=True)
        return "".join(["sample_id,clean,trained,flipped\n", *(f"{i},{a},{b},{c}\n" for i, a, b, c in rows)])

    def check(self, rows: Tensor) -> None:
        """Raises InputError where these rows of the training file are used and nobody knows their labels."""
        if self.known is not None and not self.known[rows].all():
            lost = self.ids[rows][~self.known[rows]]
            raise InputError(
                f"the noise of '{self.source}' does not say the labels of {len(lost):,} samples that are used: the "
                f"first is {int(lost[0])}",
                "choose the samples as the run did that made it (--max-samples)",
            )


def flips_of(
    settings: DataSettings, labels: Tensor, ids: Tensor, num_classes: int, dataset: str
) -> Flips | None:
    """The flips that the settings ask for; None without noise.

    Raises SettingsError for noise that these data cannot have, InputError for a file that is not of these samples.
    """
    share = settings.label_noise or 0.0
    if settings.noise_file is not None:
        settings.refuse("with --noise-file", *(settings.explicit & {*NOISE}))  # a record may say both
        return _of_file(settings, labels, ids, num_classes)
    if share == 0:
        settings.refuse("without label noise", "label_seed", "labels", "noise_kind", "noise_map")
        return None
    if num_classes < 2:
        raise SettingsError("--label-noise needs at least two classes")
    kind = settings.noise_kind or "uniform"
    if kind != "asymmetric":
        settings.refuse(f"with --noise-kind {kind}", "noise_map")
    if kind == "instance":
        raise SettingsError(
            "--noise-kind instance needs a teacher, which mcx train trains",
            "train a network with it, and pass the label_noise.csv of its run as --noise-file",
        )
    seed = settings.label_seed if settings.label_seed is not None else int(getattr(settings, "seed", 0))
    if kind == "uniform":
        return Flips(share, seed, ids, labels, flip(labels, ids, num_classes, share, seed))
    classes = map_of(settings.noise_map, dataset, num_classes)
    trained = flip_by_map(labels, ids, classes, share, seed)
    return Flips(share, seed, ids, labels, trained, kind, map_text(classes))


def flip(labels: Tensor, ids: Tensor, num_classes: int, share: float, seed: int) -> Tensor:
    """Each label [N] is replaced with probability `share` by one of the other classes, all equally likely."""
    chosen = keyed.uniform(seed, "label noise", ids)[:, 0] < share
    step = 1 + keyed.integers(seed, "label noise class", ids, num_classes - 1)
    return torch.where(chosen, (labels + step) % num_classes, labels)


def flip_by_map(labels: Tensor, ids: Tensor, classes: dict[int, int], share: float, seed: int) -> Tensor:
    """Each label [N] of a class in the map is replaced with probability `share` by what the map says (Patrini et al.
    2017, arXiv:1609.03683). The same samples are chosen as in uniform noise of that seed.
    """
    chosen = keyed.uniform(seed, "label noise", ids)[:, 0] < share
    mapped = torch.arange(int(max(*classes, *classes.values(), int(labels.max()))) + 1)
    for source, target in classes.items():
        mapped[source] = target
    return torch.where(chosen, mapped[labels], labels)


def by_teacher(probabilities: Tensor, labels: Tensor, ids: Tensor, share: float) -> Tensor:
    """The labels [N] of which `share`, rounded to whole samples, are flipped: those of the samples of which a teacher
    gives another class than the label the highest probability, each to that class; of equals those of the lowest ids.

    `probabilities` [N, C] are a teacher's (as in Chen et al. 2021, arXiv:2012.05458, of a network's mean over epochs).
    """
    others = probabilities.double().scatter(1, labels[:, None], -1.0)
    highest, runner_up = others.max(1)
    count = int(share * len(labels) + 0.5)
    by_id = ids.argsort()
    order = by_id[highest[by_id].argsort(descending=True, stable=True)]
    trained = labels.clone()
    trained[order[:count]] = runner_up[order[:count]]
    return trained


def placed(given: Flips, labels: Tensor, ids: Tensor) -> Flips:
    """Flips of some samples, of a teacher or a file, among those of the whole training file, `labels` and `ids` [N]."""
    known = torch.isin(ids, given.ids)
    order = given.ids.argsort()
    places = order[torch.searchsorted(given.ids[order], ids[known])]
    trained = labels.clone()
    trained[known] = given.trained[places]
    return Flips(
        given.share, given.seed, ids, labels, trained, given.kind, given.map, given.source,
        None if known.all() else known,
    )  # fmt: skip


def _of_file(settings: DataSettings, labels: Tensor, ids: Tensor, num_classes: int) -> Flips:
    path = settings.noise_file
    assert path is not None
    found = noise_files.read(path, ids.numpy())
    own, trained = torch.tensor(found.ids), torch.tensor(found.trained)
    order = ids.argsort()
    places = torch.searchsorted(ids[order], own).clamp(max=len(ids) - 1)
    there = ids[order][places] == own
    if not there.all():
        raise InputError(
            f"'{path}' names {int((~there).sum()):,} samples that the training file does not have: the first is "
            f"{int(own[~there][0])}"
        )
    clean = labels[order[places]]
    if found.clean is not None:
        wrong = torch.tensor(found.clean) != clean
        if wrong.any():
            first = int(wrong.nonzero()[0, 0])
            raise InputError(
                f"'{path}' is of other data: {int(wrong.sum()):,} of {len(own):,} clean labels are not the data set's; "
                f"that of sample {int(own[first])} is {int(found.clean[first])} there and {int(clean[first])} here"
            )
    if len(trained) and int(trained.max()) >= num_classes:
        raise InputError(f"'{path}' has label {int(trained.max())}, and the data set {num_classes} classes")
    flipped = float((trained != clean).double().mean()) if len(own) else 0.0
    # Of a run's own flips the checkpoint says which they are.
    kind, share = settings.noise_kind or "file", settings.label_noise
    given = Flips(
        flipped if share is None else share, settings.label_seed, own, clean, trained, kind, source=str(path)
    )
    return placed(given, labels, ids)
