"""From a rig as it is and an inventory that says little to what each of its backends serves."""
