def draw_run(folder):
    pass
