"""The report's charts as Vega-Lite, built with Altair. Colors are the page's own variables, so light and dark follow."""
