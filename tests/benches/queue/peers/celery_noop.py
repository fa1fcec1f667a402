"""A do-nothing task for Celery, at its best here: late acknowledgements, no results, no events, prefetch as fits.

`celery_noop.py fill N` puts tasks into the queue. As the worker's application (`celery -A celery_noop worker`) it writes the numbers of
the tasks it has run into the folder $RAN, one file per process, when it ends.
"""

import os
import sys
import uuid

from celery import Celery, signals

app = Celery("noop", broker=os.environ["BROKER"])
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    task_store_errors_even_if_ignored=False,
    worker_prefetch_multiplier=int(os.environ.get("PREFETCH", "64")),
    worker_disable_rate_limits=True,
    worker_send_task_events=False,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
)

ran = []


@app.task(name="noop")
def noop(number, filler):
    ran.append(number)


def tell(**_):
    if ran:
        with open(os.path.join(os.environ["RAN"], uuid.uuid4().hex), "w") as file:
            file.write("\n".join(map(str, ran)))
        ran.clear()


signals.worker_process_shutdown.connect(tell)
signals.worker_shutdown.connect(tell)

if __name__ == "__main__" and sys.argv[1] == "fill":
    # 200 bytes of payload, as the others have.
    filler = "x" * 185
    with app.producer_or_acquire() as producer:
        for number in range(int(sys.argv[2])):
            noop.apply_async((number, filler), producer=producer)
