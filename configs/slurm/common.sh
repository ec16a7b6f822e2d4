# Sourced by the templates beside it.
#
#   FLAGS    further flags of the command, such as --data-path
#
# SLURM sends USR2 three minutes before the time limit: mcx saves and ends with 75, and the job is queued again. The
# same command then goes on where it was, also with another number of tasks.

export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}  # newer versions of srun do not take it from the job

read -r -a FLAGS <<< "${FLAGS:-}"

# job FOLDER COMMAND...: run the command in all tasks; FOLDER is where its files and its state are.
job() {
    local folder=$1 code=0
    shift
    srun --kill-on-bad-exit=1 "$@" ${FLAGS[@]+"${FLAGS[@]}"} || code=$?
    local state=0
    mcx status "$folder" --quiet > /dev/null || state=$?
    if [ "$code" -eq 75 ] && [ "$state" -eq 75 ]; then
        scontrol requeue "$SLURM_JOB_ID"
    fi
    return "$code"
}
