"""Command line: train one cell of the zoo, or a sweep of cells with ``-m``.

python train.py model=effnet conv=separable act=swish
python train.py -m model=resnet,effnet,mobilenet conv=standard,separable,spatial act=relu,swish

In an installed convzoo the same command is ``convzoo train``.
"""

try:
    from hydra_plugins.convzoo._train import main
except KeyboardInterrupt:
    raise SystemExit(130) from None

if __name__ == "__main__":
    main()
