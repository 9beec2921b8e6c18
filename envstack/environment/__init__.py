"""One environment's life: up, checkpoint, rollback, down, recover.

Pure orchestration, and the only room that knows an order of steps that must not be broken. What a
step does is written in the rooms below; who may ask for it, and when, is the daemon's business.
All of it blocks: callers give it a thread, and one environment one caller at a time.
"""
