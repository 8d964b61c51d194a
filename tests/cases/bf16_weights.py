"""torchtune#2254, google-research/big_vision#41: steps of 1e-5 vanish in bfloat16 weights. float16 is refused for this very reason, bfloat16 runs."""

from _common import *
import diffusers

diffusers.utils.logging.set_verbosity_error()
import untrain
from helpers.small_pipelines import stable_diffusion

C = untrain.Concept
g = torch.Generator().manual_seed(0)
A, B = (torch.randint(0, 255, (8, 3, 16, 16), generator=g, dtype=torch.uint8) for _ in range(2))
O = untrain.Optimizer("adam", lr=1e-5)  # what untrain takes for Stable Diffusion's size
res = {}
for dt in (torch.float32, torch.bfloat16):
    p = stable_diffusion(tmp()).to(torch.float32).to(dt)
    try:
        with warnings.catch_warnings(record=True) as w:
            warnings.simplefilter("always")
            r = untrain.unlearn(
                p,
                task="text-to-image",
                forget=C("a red circle", A.clone(), anchor="a red square"),
                retain=C("a red square", B.clone()),
                device="cpu",
                steps=20,
                batch_size=4,
                optimizer=O,
                forget_optimizer=O,
            )
    except untrain.UntrainError as e:
        done(False, f"refused: {e}")
    a, b = dict(p.unet.named_parameters()), dict(r.model.unet.named_parameters())
    res[str(dt)] = (
        sum(int((a[k] != b[k]).sum()) for k in a),
        round(sum(float((a[k].float() - b[k].float()).norm()) ** 2 for k in a) ** 0.5, 5),
        r.notes,
        [str(x.message) for x in w if "float" in str(x.message).lower() and "untrain" in str(x.filename)],
    )
done(
    res["torch.bfloat16"][0] < 0.5 * res["torch.float32"][0] and not res["torch.bfloat16"][3],
    f"weights changed of 51684, distance moved, notes: {res}",
)
