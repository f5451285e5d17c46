import json
from pathlib import Path
from types import SimpleNamespace


class MlflowClient:
    def __init__(self, uri):
        self.path = Path(uri.removeprefix("file:")).with_suffix(".json")

    def _change(self, change):
        runs = json.loads(self.path.read_text()) if self.path.exists() else {}
        made = change(runs)
        self.path.write_text(json.dumps(runs))
        return made

    def get_experiment_by_name(self, name):
        return SimpleNamespace(experiment_id=name, lifecycle_stage="active")

    def create_run(self, experiment_id, tags):
        def create(runs):
            run = str(len(runs))
            runs[run] = {"experiment": experiment_id, "tags": tags, "params": {}, "metrics": {}, "ends": []}
            return run

        return SimpleNamespace(info=SimpleNamespace(run_id=self._change(create)))

    def get_run(self, run_id):
        found = self._change(lambda runs: runs[run_id])
        return SimpleNamespace(info=SimpleNamespace(experiment_id=found["experiment"]))

    def log_batch(self, run_id, params=(), metrics=()):
        def log(runs):
            runs[run_id]["params"] |= {p.key: p.value for p in params}
            for m in metrics:
                runs[run_id]["metrics"].setdefault(m.key, []).append([m.step, m.value])

        self._change(log)

    def set_terminated(self, run_id, status):
        self._change(lambda runs: runs[run_id]["ends"].append(status))
