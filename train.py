"""Train one configuration, or sweep over many: `vitbn train` for who stands in the checkout.

python train.py model=vitbnffn depth=6
python train.py -m model=vit,vitbnffn depth=4,5,6,7 seed=0,1,2
"""

from vitbn.train import main  # an @hydra.main; fish completes the arguments of files that say so

if __name__ == "__main__":
    main()
