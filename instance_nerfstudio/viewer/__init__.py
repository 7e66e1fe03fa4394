"""The panel "Instances" of nerfstudio's viewer: looking at instances one by one, and correcting them."""
