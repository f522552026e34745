"""`python -m secateur`, and so `torchrun -m secateur` and `accelerate launch -m secateur`: the command."""

from secateur.cli.app import main

if __name__ == "__main__":
    main()
