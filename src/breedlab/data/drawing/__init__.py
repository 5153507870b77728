"""How the made-up dogs and the places they stand in are drawn."""
