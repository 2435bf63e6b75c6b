"""The pricing example on a Pyomo model: the network becomes one block of it.

`nn.embed` writes the network into the model as the block `demand`, whose variables `outputs` are the predicted bags.
Any MILP solver of Pyomo solves the model as always; `nn.solve` takes the same model and checks the answer on the
network.
"""

import pyomo.environ as pyo
from pyomo.contrib.solver.solvers.highs import Highs

import nnembed as nn
from nnembed.demo import NETWORK, load_market

market = load_market()
today = {(s, c): float(market.today.sel(store=s, coffee=c)) for s in market.store.values for c in market.coffee.values}
step = {key: 0.08 * price for key, price in today.items()}

m = pyo.ConcreteModel()
m.store = pyo.Set(initialize=market.store.values.tolist())
m.coffee = pyo.Set(initialize=market.coffee.values.tolist())
m.price = pyo.Var(m.store, m.coffee, bounds=lambda m, s, c: (today[s, c] - step[s, c], today[s, c] + step[s, c]))
m.changed = pyo.Var(m.store, m.coffee, domain=pyo.Binary)

# Variables and numbers side by side: three prices and three traits per store are the six inputs of the network.
emb = nn.embed(m, nn.load(NETWORK), [m.price, market.traits.values], name="demand")
bags = {(s, c): m.demand.outputs[s, k] for s in m.store for k, c in enumerate(m.coffee)}
print(emb.plan)


@m.Constraint(m.coffee)
def stock(m, c):
    """Sell no more than can be delivered."""
    return sum(bags[s, c] for s in m.store) <= float(market.stock.sel(coffee=c))


@m.Constraint(m.coffee)
def no_cheaper_on_average(m, c):
    """Keep the mean shelf price."""
    return sum(m.price[s, c] for s in m.store) >= sum(today[s, c] for s in m.store)


@m.Constraint(m.store)
def classic_above_house(m, s):
    """Keep the ladder between the first two coffees."""
    return m.price[s, "classic"] - m.price[s, "house"] >= 0.80


@m.Constraint(m.store)
def reserve_above_classic(m, s):
    """Keep the ladder between the last two coffees."""
    return m.price[s, "reserve"] - m.price[s, "classic"] >= 1.50


@m.Constraint(m.store, m.coffee)
def raised_only_if_changed(m, s, c):
    """Count a higher price as a change."""
    return m.price[s, c] - step[s, c] * m.changed[s, c] <= today[s, c]


@m.Constraint(m.store, m.coffee)
def lowered_only_if_changed(m, s, c):
    """Count a lower price as a change."""
    return m.price[s, c] + step[s, c] * m.changed[s, c] >= today[s, c]


m.few_changes = pyo.Constraint(expr=sum(m.changed[...]) <= 12)
margin = {c: float(market.margin.sel(coffee=c)) for c in m.coffee}
m.profit = pyo.Objective(expr=sum(margin[c] * bags[s, c] for s, c in bags), sense=pyo.maximize)

# Pyomo's own HiGHS, as if there were no network; the residual says how well the answer keeps to it.
Highs().solve(m, time_limit=60, rel_gap=1e-3)
by_pyomo = pyo.value(m.profit)
print(f"Pyomo:   {by_pyomo:.1f} EUR a week, residual {emb.residual():.1e} bags")

# The same model through nnembed: with start points, a proven bound and a certificate.
result = nn.solve(m, backend="highs", time_limit=60, gap=1e-3)
print(f"nnembed: {result.objective:.1f} EUR a week, at most {result.bound:.1f} possible")
print(result.certificate)
