"""The smallest change of an image that makes a digits classifier err most, and the proof that no other does worse.

Every pixel may move by at most RADIUS. For each other digit, `nn.maximize` finds the image in this ball where that
digit is furthest ahead of the right one: a positive lead is an adversary; if all bounds are negative, there is none.

    python examples/adversary.py [PICTURE]

needs scikit-learn (for the image) and matplotlib (for the picture).
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import nnembed as nn

IMAGE, RADIUS = 9, 0.08
PICTURE = Path(sys.argv[1] if len(sys.argv) > 1 else "adversary.png")

net = nn.load(Path(__file__).with_name("digits.onnx"))
image = load_digits().data[IMAGE] / 16
label = int(net(image).argmax())
ball = np.clip(image - RADIUS, 0, 1), np.clip(image + RADIUS, 0, 1)

answers = {}
for rival in sorted(set(range(10)) - {label}):
    answer = nn.maximize(net, ball, objective=np.eye(10)[rival] - np.eye(10)[label], time_limit=30)
    print(f"{rival} leads {label} by {answer.objective:7.3f} at most (proven bound {answer.bound:7.3f})")
    answers[rival] = answer

rival, worst = max(answers.items(), key=lambda item: item[1].objective)
if worst.objective > 0:
    verdict = f"taken for {rival}"
elif all(answer.bound < 0 for answer in answers.values()):
    verdict = f"proven: it stays {label}"
else:
    verdict = "open: nothing found, nothing proven"
print(f"the {label} with every pixel within {RADIUS}: {verdict}")
print(worst.certificate)

figure = Figure(figsize=(10, 3), layout="constrained")
panels = figure.subplots(1, 4, width_ratios=[1, 1, 1, 1.6])
change = np.abs(worst.x - image).max() or 1
shown = [(image, f"a {label}", "gray_r", 0, 1), (worst.x, verdict, "gray_r", 0, 1)]
shown.append((worst.x - image, f"difference, at most {change:.2f}", "RdBu_r", -change, change))
for panel, (pixels, title, colours, low, high) in zip(panels, shown, strict=False):
    panel.imshow(pixels.reshape(8, 8), cmap=colours, vmin=low, vmax=high)
    panel.set_title(title, fontsize=10)
    panel.set_axis_off()
panels[3].bar(np.arange(10) - 0.2, net(image), 0.4, color="#8a8f98", label="original")
panels[3].bar(np.arange(10) + 0.2, net(worst.x), 0.4, color="#d55e00", label="changed")
panels[3].set_xticks(range(10))
panels[3].set_title("score of each digit", fontsize=10)
panels[3].legend(frameon=False, fontsize=8)
figure.savefig(PICTURE, dpi=120)
print(f"wrote {PICTURE}")
