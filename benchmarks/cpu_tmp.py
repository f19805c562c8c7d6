import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks import space


def work():
    from benchmarks import kinds
    from benchmarks.holder import Holder

    space.raise_descriptor_limit()
    d = space.Daemon()
    out = []
    try:
        for _ in range(30):
            kinds.attach_to_bridge()
        with Holder() as h:
            for r in range(8):
                b = d.processor_time()
                t = h.grow(200)
                d.rest()
                a = d.processor_time()
                out.append(
                    (
                        (a[2] - b[2]) * 1e6 / 200,
                        t["user"] * 1e6 / 200,
                        t["seconds"] * 1e6 / 200,
                    )
                )
                h.drop()
                d.wait_for_records(0)
    finally:
        d.stop()
    print(
        "broker cpu us/attach",
        [round(o[0]) for o in out],
        "client user",
        [round(o[1]) for o in out],
        "each",
        [round(o[2]) for o in out],
    )


raise SystemExit(space.run(__file__, sys.argv[1:], work))
