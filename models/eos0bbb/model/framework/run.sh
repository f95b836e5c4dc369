#!/bin/bash
# Called by the hub as: run.sh <framework folder> <input.csv> <output.csv>
set -e
python "$1/code/main.py" "$2" "$3"
