"""Which prices to change: 3 coffees in 20 stores, and a trained network that knows how customers react.

A roaster earns a fixed amount per bag; the rest of the shelf price is the stores'. So the objective, margin times bags,
is linear, and the stores' side is a rule: no coffee may become cheaper on average. The network predicts the bags sold
of each coffee from all three prices and what is known of the store; everything else is ordinary linopy.
"""

import nnembed as nn
from nnembed.demo import NETWORK, load_market

MOST_CHANGES = 12  # price tags the stores are willing to change
LARGEST_STEP = 0.08  # by at most 8 %

market = load_market()  # an xarray.Dataset: prices today, traits of the stores, margin and stock of the coffees
net = nn.load(NETWORK)
step = LARGEST_STEP * market.today

m = nn.Model()
price = m.add_variables(market.today - step, market.today + step, name="price")
changed = m.add_variables(binary=True, coords=price.coords, name="changed")

# The network in the model. A row of its input is three prices (variables) and three traits (numbers) of a store.
units = m.embed(net, [price, market.traits], name="demand").rename(output="coffee").assign_coords(coffee=market.coffee)

m.add_constraints(units.sum("store") <= market.stock, name="stock")
m.add_constraints(price.sum("store") >= market.today.sum("store"), name="no cheaper on average")

house, classic, reserve = (price.sel(coffee=name, drop=True) for name in ("house", "classic", "reserve"))
m.add_constraints(classic - house >= 0.80, name="classic above house")
m.add_constraints(reserve - classic >= 1.50, name="reserve above classic")

m.add_constraints(price - step * changed <= market.today, name="raised only if changed")
m.add_constraints(price + step * changed >= market.today, name="lowered only if changed")
m.add_constraints(changed.sum() <= MOST_CHANGES, name="few changes")

m.add_objective((market.margin * units).sum(), sense="max")
result = m.solve(backend="highs", time_limit=60, gap=1e-3)

bags = (market.today.dims, result.values.demand.data)
decided = market[["today"]].assign(price=result.values.price, bags=bags).to_dataframe().round(2)
print(decided[decided.price != decided.today])
print(f"margin a week: {result.objective:.0f} EUR ({result.status}, at most {result.bound:.0f} EUR possible)")
print(result.certificate)
