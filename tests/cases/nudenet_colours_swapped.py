"""NudeNet 3.4 swaps red and blue on the way from a file to its network, which was trained on RGB (NudeNet#203).

Whatever the package does, red must arrive in the network's first channel.
"""

import torch
from _common import done

from untrain.tasks.text_to_image.nudity import nudenet

detector = nudenet()
network = detector.find.__closure__[0].cell_contents
fed = {}


class Spy:
    """A session that keeps what it is given."""

    def __init__(self, session):
        self.session = session

    def run(self, names, inputs):
        fed.update(inputs)
        return self.session.run(names, inputs)

    def __getattr__(self, name):
        return getattr(self.session, name)


network.onnx_session = Spy(network.onnx_session)
red = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
red[:, 0], red[:, 2] = 250, 20
detector.look(red, [None])
arrived = next(iter(fed.values()))[0].mean((1, 2)).round(2).tolist()
done(arrived[0] < arrived[2], f"a red picture reaches the network as {arrived}, it should be [0.98, 0, 0.08]")
