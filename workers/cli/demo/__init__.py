"""`keyrepack demo`: the main job on embedded parts, with what goes wrong in life: a killed worker, a disabled key."""
