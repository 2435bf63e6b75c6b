"""The pricing example, shipped with its network and its market so that ``nnembed demo`` works anywhere."""

from nnembed.demo.market import NETWORK, load_market
from nnembed.demo.run import DemoReport, run_demo

__all__ = ["NETWORK", "DemoReport", "load_market", "run_demo"]
