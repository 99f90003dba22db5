"""What only a GPU can show (`pytest -m gpu`); what has a stand-in on the CPU runs there, too, without that mark."""
