"""The table of named methods: each is an adaptation, an estimator, and the settings of its paper."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pydantic import create_model

from distmeta.adaptations import ADAPTATIONS
from distmeta.config.problems import choose
from distmeta.config.sections import AlgorithmOptions, Section
from distmeta.estimators import ESTIMATORS
from distmeta.tasks.options import EnvironmentOptions


@dataclass(frozen=True)
class Algorithm:
    """A named pair.

    Attributes:
        adaptation: entry of :data:`~distmeta.adaptations.ADAPTATIONS`.
        estimator: entry of :data:`~distmeta.estimators.ESTIMATORS`.
        paper: where it comes from.
        defaults: settings of the pair that differ from the parts' own defaults.
        outer: settings of the section ``outer`` likewise, with the name of the outer step that belongs to the method.
        tasks: settings of the section ``tasks`` likewise, of methods for reinforcement-learning tasks.
        of_policies: whether it is for reinforcement-learning tasks alone.
    """

    adaptation: str
    estimator: str
    paper: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    outer: Mapping[str, Any] = field(default_factory=dict)
    tasks: Mapping[str, Any] = field(default_factory=dict)
    of_policies: bool = False


_TRUST_REGION = {
    "name": "trust_region",
    "radius": 0.01,
    "damping": 1e-5,
    "cg_tolerance": 0.0,
    "candidates": 15,
    "backtrack": 0.8,
}
"""As in the released codes of MAML-TRPO."""

ALGORITHMS: dict[str, Algorithm] = {
    "maml": Algorithm("gradient_descent", "exact", "Finn, Abbeel, Levine, ICML 2017"),
    "fomaml": Algorithm("gradient_descent", "first_order", "Finn, Abbeel, Levine, ICML 2017, section 5.2"),
    "reptile": Algorithm(
        "gradient_descent",
        "displacement",
        "Nichol, Achiam, Schulman 2018, arXiv 1803.02999",
        {
            "inner_optimizer": "adam",
            "inner_betas": (0.0, 0.999),
            "inner_lr": 1e-3,
            "inner_steps": 5,
            "inner_batch": 10,
        },
    ),
    "anil": Algorithm("gradient_descent", "exact", "Raghu, Raghu, Bengio, Vinyals, ICLR 2020", {"adapt": "head"}),
    "meta_sgd": Algorithm(
        "gradient_descent",
        "exact",
        "Li, Zhou, Chen, Li 2017, arXiv 1707.09835",
        {"learned_rates": "per_element", "inner_lr": (0.005, 0.1)},
    ),
    "boil": Algorithm("gradient_descent", "exact", "Oh, Yoo, Kim, Yun, ICLR 2021", {"adapt": "body"}),
    "maml_plus_plus": Algorithm(
        "gradient_descent",
        "exact",
        "Antoniou, Edwards, Storkey, ICLR 2019",
        {
            "inner_lr": 0.1,
            "inner_steps": 5,
            "learned_rates": "per_step",
            "step_norms": True,
            "multi_step": 5000,
        },
        {"schedule": "cosine"},
    ),
    "meta_curvature": Algorithm(
        "gradient_descent", "exact", "Park, Oliva, NeurIPS 2019, arXiv 1902.03356", {"preconditioner": "block"}
    ),
    "warp_grad": Algorithm(
        "gradient_descent", "exact", "Flennerhag et al., ICLR 2020, arXiv 1909.00025", {"warp": "*"}
    ),
    "imaml": Algorithm(
        "gradient_descent",
        "implicit",
        "Rajeswaran, Finn, Kakade, Levine, NeurIPS 2019",
        {"inner_lr": 0.1, "inner_steps": 16, "proximal": 2.0},
    ),
    "cavia": Algorithm(
        "context", "exact", "Zintgraf, Shiarlis, Kurin, Hofmann, Whiteson, ICML 2019", {"inner_lr": 1.0}
    ),
    "lora": Algorithm("adapters", "exact", "Hu et al., ICLR 2022, arXiv 2106.09685"),
    "protonet": Algorithm("prototypes", "exact", "Snell, Swersky, Zemel, NeurIPS 2017"),
    "matching_net": Algorithm("matching", "exact", "Vinyals et al., NeurIPS 2016"),
    "r2d2": Algorithm("ridge", "exact", "Bertinetto, Henriques, Torr, Vedaldi, ICLR 2019"),
    "lr_d2": Algorithm("logistic", "exact", "Bertinetto, Henriques, Torr, Vedaldi, ICLR 2019, section 3.3"),
    "metaoptnet": Algorithm("svm", "exact", "Lee, Maji, Ravichandran, Soatto, CVPR 2019"),
    "in_context": Algorithm("in_context", "exact", "Mueller et al., ICLR 2022, arXiv 2112.10510"),
    "pretrained": Algorithm("gradient_descent", "joint", "Finn, Abbeel, Levine, ICML 2017, section 5.1"),
    "baseline": Algorithm("linear_probe", "joint", "Chen, Liu, Kira, Wang, Huang, ICLR 2019"),
    "baseline_plus_plus": Algorithm(
        "linear_probe", "joint", "Chen, Liu, Kira, Wang, Huang, ICLR 2019, section 3.2", {"cosine": True}
    ),
    "maml_trpo": Algorithm(
        "gradient_descent",
        "exact",
        "Finn, Abbeel, Levine, ICML 2017, section 5.3; Schulman et al., ICML 2015",
        {"inner_lr": 0.1},
        _TRUST_REGION,
        of_policies=True,
    ),
    "promp": Algorithm(
        "gradient_descent",
        "exact",
        "Rothfuss, Lee, Clavera, Asfour, Abbeel, ICLR 2019",
        {"inner_lr": 0.1},
        {"name": "clipped"},
        of_policies=True,
    ),
    "e_maml": Algorithm(
        "gradient_descent",
        "credited",
        "Stadie, Yang, Houthooft, Chen, Duan, Wu, Abbeel, Sutskever 2018, arXiv 1803.01118",
        {"inner_lr": 0.1},
        _TRUST_REGION,
        of_policies=True,
    ),
    "maml_vpg": Algorithm(
        "gradient_descent",
        "exact",
        "Finn, Abbeel, Levine, ICML 2017, algorithm 3",
        {"inner_lr": 0.1},
        of_policies=True,
    ),
    "es_maml": Algorithm(
        "gradient_descent",
        "evolution",
        "Song, Gao, Yang, Choromanski, Pacchiano, Tang, ICLR 2020, arXiv 1910.01215",
        {"inner_lr": 0.1},
    ),
    "rl2": Algorithm(
        "recurrent",
        "exact",
        "Duan, Schulman, Chen, Bartlett, Sutskever, Abbeel 2016, arXiv 1611.02779",
        outer={"name": "clipped", "clip": 0.2, "penalty": 0.0},
        tasks={"baseline": "network", "normalise": "none", "metrics": ["return"]},
        of_policies=True,
    ),
}


def outer_defaults(algorithm: Any, outer: Mapping[str, Any]) -> dict[str, Any]:
    """A section ``outer``, with what belongs to the named algorithm where it does not name another outer step.

    >>> outer_defaults("maml_trpo", {"radius": 0.02})["name"], outer_defaults("maml", {"lr": 0.1})
    ('trust_region', {'lr': 0.1})
    """
    entry = ALGORITHMS.get(algorithm) if isinstance(algorithm, str) else None
    if entry is None or outer.get("name", entry.outer.get("name")) != entry.outer.get("name"):
        return dict(outer)
    return {**entry.outer, **outer}


def task_defaults(algorithm: Any, options: type[Section], tasks: Mapping[str, Any]) -> Mapping[str, Any]:
    """A section ``tasks`` of this class, with what belongs to the named algorithm."""
    entry = ALGORITHMS.get(algorithm) if isinstance(algorithm, str) else None
    return {**entry.tasks, **tasks} if entry is not None and issubclass(options, EnvironmentOptions) else tasks


def algorithm_options(values: Mapping[str, Any]) -> type[AlgorithmOptions]:
    """The class that validates an ``algorithm`` section: of the entry's pair, or of the pair that it names itself."""
    entry = choose(ALGORITHMS, values.get("name"), "algorithm.name")
    adaptation_name = values.get("adaptation", entry.adaptation)
    estimator_name = values.get("estimator", entry.estimator)
    choose(ADAPTATIONS.options, adaptation_name, "algorithm.adaptation")
    choose(ESTIMATORS.options, estimator_name, "algorithm.estimator")
    return _options(values["name"], adaptation_name, estimator_name)


@cache
def _options(name: str, adaptation: str, estimator: str) -> type[AlgorithmOptions]:
    """One class for each entry and pair, so that equal settings are equal."""
    defaults = {"adaptation": adaptation, "estimator": estimator, **ALGORITHMS[name].defaults}
    bases: tuple[Any, ...] = (AlgorithmOptions, ADAPTATIONS.options[adaptation], ESTIMATORS.options[estimator])
    fields: dict[str, Any] = {}
    for base in bases:
        for key, info in base.model_fields.items():
            if key in defaults:
                fields[key] = (info.annotation, copy.copy(info))
                fields[key][1].default = defaults[key]
    return create_model(name, __base__=bases, **fields)
