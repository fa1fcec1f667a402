"""A do-nothing actor for Dramatiq, with only the middleware that it needs to be as safe as the others: retries.

`dramatiq_noop.py fill N` puts messages into the queue. As the worker's module (`dramatiq dramatiq_noop`) it writes the numbers of the
messages it has run into the folder $RAN, one file per process, when it ends.
"""

import os
import sys
import uuid

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import Retries

ran = []


class Tell(dramatiq.Middleware):
    def after_worker_shutdown(self, broker, worker):
        if ran:
            with open(os.path.join(os.environ["RAN"], uuid.uuid4().hex), "w") as file:
                file.write("\n".join(map(str, ran)))
            ran.clear()


broker = RedisBroker(url=os.environ["BROKER"], middleware=[Retries(max_retries=3), Tell()])
dramatiq.set_broker(broker)


@dramatiq.actor
def noop(number, filler):
    ran.append(number)


if __name__ == "__main__" and sys.argv[1] == "fill":
    # 200 bytes of payload, as the others have.
    filler = "x" * 185
    for number in range(int(sys.argv[2])):
        noop.send(number, filler)
