"""The pricing example on a linopy model of one's own: the network becomes rows of that model.

`nn.embed(..., attach=True)` writes the network into the model as variables and constraints. From then on the model is
an ordinary MILP that linopy solves as always; `nn.solve` takes the same model and checks the answer on the network.
"""

import linopy

import nnembed as nn
from nnembed.demo import NETWORK, load_market

market = load_market()
step = 0.08 * market.today

model = linopy.Model()
price = model.add_variables(market.today - step, market.today + step, name="price")
changed = model.add_variables(binary=True, coords=price.coords, name="changed")

emb = nn.embed(model, nn.load(NETWORK), [price, market.traits], name="demand", attach=True)
units = emb.outputs.rename(output="coffee").assign_coords(coffee=market.coffee)
print(emb.plan)

model.add_constraints(units.sum("store") <= market.stock, name="stock")
model.add_constraints(price.sum("store") >= market.today.sum("store"), name="no cheaper on average")

house, classic, reserve = (price.sel(coffee=name, drop=True) for name in ("house", "classic", "reserve"))
model.add_constraints(classic - house >= 0.80, name="classic above house")
model.add_constraints(reserve - classic >= 1.50, name="reserve above classic")

model.add_constraints(price - step * changed <= market.today, name="raised only if changed")
model.add_constraints(price + step * changed >= market.today, name="lowered only if changed")
model.add_constraints(changed.sum() <= 12, name="few changes")
model.add_objective((market.margin * units).sum(), sense="max")

# linopy's own solve, as if there were no network; the residual says how well the answer keeps to it.
model.solve(solver_name="highs", time_limit=60, mip_rel_gap=1e-3, output_flag=False)
by_linopy = model.objective.value
print(f"linopy:  {by_linopy:.1f} EUR a week, residual {emb.residual():.1e} bags")

# The same model through nnembed: with start points, a proven bound and a certificate.
result = nn.solve(model, backend="highs", time_limit=60, gap=1e-3)
print(f"nnembed: {result.objective:.1f} EUR a week, at most {result.bound:.1f} possible")
print(result.certificate)
