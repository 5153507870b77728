"""The report's charts as Vega-Lite, built with Altair. Colors are the page's variables: light and
dark follow."""
