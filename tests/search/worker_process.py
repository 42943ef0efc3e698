"""A worker of the tests as a process of its own: `python -m tests.search.worker_process URL STUDY SECONDS`."""

import hashlib
import sys
import time

from nnunet_hypersegnas.search import Score, open_storage, open_study, work


def made_up(rung, architecture):
    """A score that depends on rung and architecture alone."""
    text = f"{rung.name} {architecture.id}"
    return Score(dsc_by_label={"organ": int(hashlib.sha256(text.encode()).hexdigest()[:6], 16) / 16**6})


def main(url, name, seconds):
    study = open_study(open_storage(url), name)

    def evaluate(rung, architecture):
        if architecture.id in sys.argv[4:]:
            raise RuntimeError("this one cannot be evaluated")
        time.sleep(seconds)
        return made_up(rung, architecture)

    print("working", flush=True)
    work(study, evaluate, lambda idle: False)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
