"""The training around model, data and optimizer; 100 epochs of COCO's 118,287 images at 64 images per iteration."""

train = {
    "output_dir": "./output",
    "init_checkpoint": "",  # a trunk or a detector: a path, URL, hf:// or timm://; "" trains from scratch
    # Nothing follows from dataloader.train.total_batch_size: with another batch set this and optimizer.lr too.
    "max_iter": 184824,
    "amp": {"enabled": True, "precision": "float16"},  # or "bfloat16"
    "accumulate": 1,  # forward and backward passes per iteration, each over that part of total_batch_size
    "recompute": [],  # "neck", "heads": computed anew in the backward pass; the trunk has use_checkpoint
    "clip_norm": 1.0,  # largest norm of all gradients together; 0 for any
    "parallel": "ddp",  # several processes: "ddp" keeps the model in each, "fsdp" shares it out among them
    "ema_decay": 0.0,  # decay per iteration of an average of the weights, evaluated and saved beside them; 0 for none
    # Besides, at most so many minutes and an epoch pass without a checkpoint; of those the newest two are kept.
    "checkpointer": {"period": 5000, "max_to_keep": 100, "minutes": 10.0},
    "skip_nonfinite": 0,  # iterations in a row that may be left out because a loss or gradient is not finite
    "best": "auto",  # metric whose best weights are kept in model_best.pth, such as "bbox/AP"; "" for none
    "patience": 0,  # evaluations without a better one that end the training; 0 for any number
    "val_loss": True,  # measure the losses on the images of an evaluation too
    "loggers": [],  # where metrics go besides TensorBoard: "csv", "wandb", "mlflow"
    "eval_period": 5000,
    "pictures": 8,  # held-out images drawn at the end
    "report": True,  # write report.html after each evaluation and at the end
    "nms_across_classes": False,  # one class for one object, in evaluation
    "device": "cuda",  # the CPU is taken where there is no GPU
    "seed": -1,  # 0 or more repeats the random numbers of another run
}
