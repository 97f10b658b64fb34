"""Settings that are right by themselves, and may not be together: the check of a whole configuration."""

from __future__ import annotations

from distmeta.adaptations import ADAPTATIONS
from distmeta.algorithms import ALGORITHMS
from distmeta.config.schema import Config
from distmeta.config.sections import AlgorithmOptions, SizeRange
from distmeta.estimators import ESTIMATORS
from distmeta.models import MODELS
from distmeta.objectives import Objective, objective_name, objective_of, open_objective
from distmeta.tasks.options import EnvironmentOptions


def refuse_pair(options: AlgorithmOptions) -> str | None:
    """Why an adaptation and an estimator make no sense together; ``None`` where they do."""
    adaptation, estimator = ADAPTATIONS.options[options.adaptation], ESTIMATORS.options[options.estimator]
    if estimator.needs_steps and not adaptation.iterative:
        return (
            f"algorithm.estimator = {options.estimator} is about inner steps, and algorithm.adaptation = "
            f"{options.adaptation} takes none; use estimator exact"
        )
    if adaptation.joint_alone != estimator.joint and (adaptation.joint_alone or not adaptation.iterative):
        wanted, why = (
            ("joint", "is trained on all classes together")
            if adaptation.joint_alone
            else (
                "exact",
                "solves each task, which joint training leaves out",
            )
        )
        return (
            f"algorithm.adaptation = {options.adaptation} {why}, and algorithm.estimator = {options.estimator}; use "
            f"estimator {wanted}"
        )
    return estimator.refuse(options)


def check(config: Config) -> None:
    """Settings that are right by themselves but not together; raises ``ValueError`` with the reason."""
    reason = refuse_pair(config.algorithm)
    if reason:
        raise ValueError(reason)
    objective = objective_of(config.tasks)
    if config.model.sequential and config.algorithm.adaptation != "recurrent":
        raise ValueError(
            f"model.kind = {config.model.kind} takes examples as the steps of one sequence, and under "
            f"algorithm.adaptation = {config.algorithm.adaptation} they have no order; use another model, or "
            "algorithm.name=rl2"
        )
    if config.model.in_context and config.algorithm.adaptation != "in_context":
        raise ValueError(
            f"model.kind = {config.model.kind} reads a support set beside the query, and algorithm.adaptation = "
            f"{config.algorithm.adaptation} gives it none; use another model, or algorithm.name=in_context"
        )
    if config.algorithm.adaptation == "in_context" and config.model.kind in MODELS and not config.model.in_context:
        raise ValueError(
            f"algorithm.adaptation = in_context gives a network the support set beside the query, and model.kind = "
            f"{config.model.kind} takes no support set; use model.kind=prior_fitted, or a network of your own"
        )
    _check_policies(config, objective)
    adaptation = ADAPTATIONS.options[config.algorithm.adaptation]
    if adaptation.needs_classes and not objective.classes:
        raise ValueError(
            f"algorithm.adaptation = {config.algorithm.adaptation} needs classes, and tasks.kind = {config.tasks.kind} "
            "is a regression; use gradient_descent"
        )
    if adaptation.needs_classes and getattr(config.tasks, "ways", 0) is None:
        raise ValueError(
            f"algorithm.adaptation = {config.algorithm.adaptation} needs examples of each class in every support set; "
            "set tasks.ways"
        )
    _check_differentiation(config)
    _check_inner(config, objective)
    _check_outer(config, objective)
    ways = getattr(config.tasks, "ways", None)
    if adaptation.needs_head and isinstance(ways, SizeRange):
        raise ValueError(
            f"tasks.ways is drawn from {ways.min} to {ways.max} for every meta-step, but the network's head has one "
            "output for each way; give one number, or use an algorithm without a head such as protonet"
        )
    if adaptation.needs_head and config.evaluation.ways != ways:
        raise ValueError(
            f"evaluation.ways = {config.evaluation.ways} differs from tasks.ways = {ways}, but the network's head has "
            "one output for each training way; set them equal, or use an algorithm without a head such as protonet"
        )


def _check_policies(config: Config, objective: Objective) -> None:
    """Refuse losses of actions for tasks without, and what reinforcement learning cannot use."""
    options, name = config.algorithm, objective_name(config.tasks.objective)
    acting = isinstance(config.tasks, EnvironmentOptions)
    inner = getattr(options, "inner_objective", None)
    judged = [("tasks.objective", name, objective)]
    if inner is not None:
        own = open_objective(inner, "algorithm.inner_objective")
        judged.append(("algorithm.inner_objective", objective_name(inner), own))
    for key, given, each in judged:
        if getattr(each, "of_policies", False) != acting:
            which = "of examples" if acting else "of actions"
            fits = "likelihood_ratio, reinforce or dice" if acting else "for example cross_entropy or squared_error"
            raise ValueError(
                f"{key} = {given} is a loss {which}, and tasks.kind = {config.tasks.kind} "
                f"{'has actions' if acting else 'has examples'}; use {fits}"
            )
    if acting:
        _check_acting(config)
        for key, given, each in judged:
            _check_surrogate(config, key, given, each)
    else:
        _check_examples(config)


def _check_examples(config: Config) -> None:
    """Refuse what is about actions, for tasks without."""
    options, kind = config.algorithm, config.tasks.kind
    if ALGORITHMS[options.name].of_policies:
        raise ValueError(
            f"algorithm.name = {options.name} is for tasks with actions, and tasks.kind = {kind} has examples; use "
            "maml, with outer.name=trust_region for natural-gradient steps"
        )
    if config.evaluation.mean_actions:
        raise ValueError(
            f"evaluation.mean_actions is about actions, and tasks.kind = {kind} has examples; leave it out"
        )
    if ESTIMATORS.options[options.estimator].of_policies:
        raise ValueError(
            f"algorithm.estimator = {options.estimator} is about actions, and tasks.kind = {kind} has examples; use "
            "exact"
        )
    if options.adaptation == "recurrent":
        raise ValueError(
            f"algorithm.adaptation = recurrent is for tasks with actions, and tasks.kind = {kind} has examples; use "
            "gradient_descent"
        )


def _check_acting(config: Config) -> None:
    """Refuse what reinforcement learning cannot use."""
    options = config.algorithm
    if options.adaptation == "recurrent":
        _check_recurrent(config)
    elif not ADAPTATIONS.options[options.adaptation].iterative:
        raise ValueError(
            f"algorithm.adaptation = {options.adaptation} takes no inner steps, and a policy adapts by them, or by its "
            "memory; use gradient_descent (algorithm.name=maml_trpo) or recurrent (algorithm.name=rl2)"
        )
    if ESTIMATORS.options[options.estimator].program == "evolving":
        _check_evolution(config)
    elif not ESTIMATORS.options[options.estimator].of_outputs:
        raise ValueError(
            f"algorithm.estimator = {options.estimator} is not one of outputs after adaptation, and episodes after it "
            "are what counts; use exact or first_order"
        )
    if options.estimator == "credited":
        _check_credited(config)
    if getattr(options, "multi_step", 0):
        raise ValueError(
            f"algorithm.multi_step = {options.multi_step}: episodes are rolled out after the last inner step alone, "  # type: ignore[attr-defined]
            "so there are no losses after the others; leave it out"
        )
    if getattr(options, "inner_batch", None) is not None:
        raise ValueError("algorithm.inner_batch: an inner step uses all of its episodes; leave it out")


def _check_surrogate(config: Config, key: str, given: str, objective: Objective) -> None:
    """Refuse a loss of actions where it would learn nothing."""
    if key == "tasks.objective" and "compare" in config.outer.requests and not getattr(objective, "comparable", True):
        raise ValueError(
            f"outer.name = {config.outer.name} compares the losses of policies, and the value of {key} = {given} says "
            "nothing, so that no step would ever be taken; use likelihood_ratio, or outer.name=gradient"
        )
    least = getattr(objective, "least_episodes", 1)
    trial = config.algorithm.adaptation == "recurrent"  # whose episodes are one sequence
    episodes = 1 if trial else getattr(config.tasks, "episodes", least)
    if episodes < least:
        why = "a trial of a policy with a memory is one episode to it" if trial else f"tasks.episodes = {episodes}"
        raise ValueError(
            f"{key} = {given} compares {least} or more episodes of a task, and {why}; use likelihood_ratio"
            + ("" if trial else ", or more episodes")
        )


def _check_credited(config: Config) -> None:
    """Refuse shards without other tasks to compare with, and an outer step that has another loss."""
    if config.run.shard < 2:
        raise ValueError(
            "algorithm.estimator = credited compares the tasks of a shard, and run.tasks_per_shard = 1; let it be 2 or "
            "more"
        )
    if "clipped" in config.outer.requests:
        raise ValueError(
            f"outer.name = {config.outer.name} has a loss of its own, which algorithm.estimator = credited does not "
            "change; use outer.name=trust_region or gradient"
        )


def _check_evolution(config: Config) -> None:
    """Refuse what evolution strategies do not give, and settings of other ways to compute."""
    if config.outer.requests != ("gradient",):
        raise ValueError(
            f"outer.name = {config.outer.name} asks for more than a gradient, and algorithm.estimator = evolution "
            "gives nothing else; use outer.name=gradient"
        )
    for name, known in {
        "compile": ("auto", "none", "graph"),
        "precision": ("auto", "float32"),
        "chunk": ("auto",),
    }.items():
        if getattr(config.engine, name) not in known:
            raise ValueError(
                f"engine.{name} = {getattr(config.engine, name)}: evolution strategies are computed with "
                f"{name} = {' or '.join(known)}; leave it out"
            )


def _check_recurrent(config: Config) -> None:
    """Refuse what is not for policies with a memory, whose sequences are computed in one way."""
    if "curvature" in config.outer.requests:
        raise ValueError(
            f"outer.name = {config.outer.name} asks for the curvature of outputs after inner steps, and "
            "algorithm.adaptation = recurrent takes none; use outer.name=clipped or gradient"
        )
    for name in ("penalty", "divergence"):
        if getattr(config.outer, name, None):
            raise ValueError(
                f"outer.{name} = {getattr(config.outer, name)} is about policies before inner steps, and "
                "algorithm.adaptation = recurrent takes none; leave it out, or set outer.penalty=0"
            )
    if config.algorithm.estimator != "exact":
        raise ValueError(
            f"algorithm.estimator = {config.algorithm.estimator} is about inner steps, and algorithm.adaptation = "
            "recurrent takes none; use exact"
        )
    ways = {"compile": "none", "precision": "float32", "differentiation": "reverse", "layers": "general"}
    for name, only in ways.items():
        asked = getattr(config.engine, name)
        if asked not in ("auto", only):
            raise ValueError(
                f"engine.{name} = {asked}: recurrent policies are computed with {name} = {only} alone; leave it out"
            )


def _check_inner(config: Config, objective: Objective) -> None:
    """Refuse an inner objective that is about other targets than the outer one."""
    setting = getattr(config.algorithm, "inner_objective", None)
    if setting is None:
        return
    inner = open_objective(setting, "algorithm.inner_objective")
    if inner.classes != objective.classes:
        kinds = ["class indices" if each.classes else "numbers" for each in (inner, objective)]
        raise ValueError(
            f"algorithm.inner_objective = {objective_name(setting)} is about {kinds[0]}, and tasks.objective = "
            f"{objective_name(config.tasks.objective)} about {kinds[1]}; they take the same targets"
        )


def _check_outer(config: Config, objective: Objective) -> None:
    """Refuse an outer step that asks for what estimator or objective have not."""
    if "clipped" in config.outer.requests:
        if not getattr(objective, "of_policies", False):
            raise ValueError(
                f"outer.name = {config.outer.name} is a step on policies, and tasks.kind = {config.tasks.kind} has no "
                "actions; use outer.name=gradient"
            )
        estimator = ESTIMATORS.options[config.algorithm.estimator]
        if not estimator.through_steps or estimator.in_phases:
            raise ValueError(
                f"outer.name = {config.outer.name} differentiates inner steps, and algorithm.estimator = "
                f"{config.algorithm.estimator}; use exact"
            )
        return
    if "curvature" not in config.outer.requests:
        return
    if getattr(config.tasks, "baseline", "linear") == "network":
        raise ValueError(
            f"outer.name = {config.outer.name} knows how actions change with the meta-parameters, not how values do "
            "that tasks.baseline = network learns; use tasks.baseline=linear, or outer.name=clipped or gradient"
        )
    if not ESTIMATORS.options[config.algorithm.estimator].of_outputs:
        raise ValueError(
            f"outer.name = {config.outer.name} asks how outputs change with the meta-parameters, and "
            f"algorithm.estimator = {config.algorithm.estimator} does not differentiate these; use "
            "outer.name=gradient"
        )
    if not all(hasattr(objective, name) for name in ("curvature", "divergence")):
        raise ValueError(
            f"outer.name = {config.outer.name} asks for the curvature and the divergence of outputs, and the objective "
            f"{objective_name(config.tasks.objective)} has none; use outer.name=gradient"
        )


def _check_differentiation(config: Config) -> None:
    if config.engine.differentiation != "mixed":
        return
    if not ESTIMATORS.options[config.algorithm.estimator].through_steps:
        raise ValueError(
            f"engine.differentiation = mixed is a way through inner steps, and algorithm.estimator = "
            f"{config.algorithm.estimator}; use auto"
        )
    if not ADAPTATIONS.options[config.algorithm.adaptation].iterative:
        raise ValueError(
            f"engine.differentiation = mixed goes through adaptation step by step, and {config.algorithm.adaptation} "
            "has no steps; use reverse"
        )
