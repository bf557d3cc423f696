"""The lines that a user writes for three stages by epochs: the head, then a part of the backbone, then everything.

What is counted is what the fine-tuning asks for beyond a fit without it, one argument or one stage a line.
"""

from tests.benchmarks.finetuning_peers import SCHEDULE

OURS_YAML = """\
- class_path: runmodel_ext.callbacks.StagedFinetuning
  init_args:
    stages:
      - name: head
        train: net.head
        until: {epochs: 2}
      - name: top
        train: [net.head, net.body]
        lr: {net.body: 0.005, "*": 0.02}
        until: {epochs: 2}
      - name: all
        train: "*"
        lr: {net.stem: 0.003, net.body: 0.005, "*": 0.02}
"""
OURS_YAML_DENSE = """\
- class_path: runmodel_ext.callbacks.StagedFinetuning
  init_args:
    stages:
      - {name: head, train: net.head, until: {epochs: 2}}
      - {name: top, train: [net.head, net.body], lr: {net.body: 0.005, "*": 0.02}, until: {epochs: 2}}
      - {name: all, train: "*", lr: {net.stem: 0.003, net.body: 0.005, "*": 0.02}}
"""
OURS_PYTHON = """\
from runmodel_ext import Stage, StagedFinetuning, Until
staged = StagedFinetuning([
    Stage("head", train="net.head", until=Until(epochs=2)),
    Stage("top", train=["net.head", "net.body"], lr={"net.body": 0.005, "*": 0.02}, until=Until(epochs=2)),
    Stage("all", train="*", lr={"net.stem": 0.003, "net.body": 0.005, "*": 0.02}),
])
"""
SCHEDULE_DENSE = """\
0: {max_transition_epoch: 2, params: ['net.head.*']}
1: {max_transition_epoch: 4, lr: 5.0e-3, params: ['net.body.*']}
2: {max_transition_epoch: 6, lr: 3.0e-3, params: ['net.stem.*']}
"""
SCHEDULER_PYTHON = """\
from finetuning_scheduler import FinetuningScheduler
scheduler = FinetuningScheduler(ft_schedule="schedule.yaml", epoch_transitions_only=True, restore_best=False)
"""
BASE_PYTHON = """\
from lightning.pytorch.callbacks import BaseFinetuning
class Gradual(BaseFinetuning):
    def freeze_before_training(self, pl_module):
        self.freeze([pl_module.net.stem, pl_module.net.body])
    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == 2:
            self.unfreeze_and_add_param_group(pl_module.net.body, optimizer, lr=0.005)
        if epoch == 4:
            self.unfreeze_and_add_param_group(pl_module.net.stem, optimizer, lr=0.003)
"""
BASE_MODULE = """\
        parameters = [p for p in self.parameters() if p.requires_grad]
        return torch.optim.AdamW(parameters, lr=0.02)
"""
WRITTEN: dict[str, tuple[str, ...]] = {
    "StagedFinetuning, YAML": (OURS_YAML,),
    "StagedFinetuning, YAML, a stage a line": (OURS_YAML_DENSE,),
    "StagedFinetuning, Python": (OURS_PYTHON,),
    "finetuning-scheduler, YAML and Python": (SCHEDULE, SCHEDULER_PYTHON),
    "finetuning-scheduler, a stage a line": (SCHEDULE_DENSE, SCHEDULER_PYTHON),
    "BaseFinetuning, Python and in the module": (BASE_PYTHON, BASE_MODULE),
}


def show_lines() -> None:
    """Print how many lines each takes, and which of them change the module."""
    print("\nLines that a user writes for three stages, imports included")
    print(f"    {'':<42}{'lines':>8}{'in the module':>16}")
    for name, texts in WRITTEN.items():
        lines = sum(len(text.splitlines()) for text in texts)
        of_module = sum(len(text.splitlines()) for text in texts if text is BASE_MODULE)
        print(f"    {name:<42}{lines:>8}{of_module:>16}")
