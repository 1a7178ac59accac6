"""`python -m reason_train`, which `torchrun` starts on every device."""

from reason_train.commands import main

main()
