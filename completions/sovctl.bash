# bash completion for sovctl                             -*- shell-script -*-
# Made from the command tree by `make generated`; `sovctl completion bash` prints the same.
# shellcheck shell=bash disable=SC2034,SC2207
declare -gA _sovctl_commands=(
    ['sovctl']='submit run ckpt doctor exec image node health sweep watch lab config completion'
    ['sovctl run']='ls show why events stop resume'
    ['sovctl ckpt']='ls verify latest quarantine prune advise'
    ['sovctl doctor']='isolation'
    ['sovctl image']='ls resolve prefetch gc env'
    ['sovctl image env']='ls rm export'
    ['sovctl node']='ls show check drain resume history'
    ['sovctl health']='check watch prolog epilog probes burn-in explain'
    ['sovctl lab']='up down status shell inject heal demo'
    ['sovctl config']='show check'
)
declare -gA _sovctl_options=(
    ['sovctl']='-V --version -h --help'
    ['sovctl submit']='--run-dir --checkpoint-dir --checkpoint-format --max-hardware-faults --same-crash-limit --spare-nodes --min-nodes --preemptible --hang-timeout --progress-regex --restart-stragglers --fresh --dry-run -h --help -A --account --acctg-freq -a --array --batch --bb --bbf -b --begin -D --chdir --cluster --cluster-constraint -M --clusters --comment --consolidate-segments -C --constraint --container --container-id --container-type --context --contiguous -S --core-spec --cores-per-socket --cpu-freq --cpus-per-gpu -c --cpus-per-task --deadline --delay-boot -d --dependency -m --distribution -e --error -x --exclude --exclusive --export --export-file --external --extra -B --extra-node-info --get-user-env --gid --gpu-bind --gpu-freq -G --gpus --gpus-per-node --gpus-per-socket --gpus-per-task --gres --gres-flags --hint -H --hold --ignore-pbs -i --input -J --job-name --kill-on-invalid-dep -L --licenses --mail-type --mail-user --mcs-label --mem --mem-bind --mem-per-cpu --mem-per-gpu --mem-update --mincpus --network --nice -k --no-kill --no-requeue -F --nodefile -w --nodelist -N --nodes -n --ntasks --ntasks-per-core --ntasks-per-gpu --ntasks-per-node --ntasks-per-socket --ntasks-per-tres --oom-kill-step --open-mode -o --output -O --overcommit -s --oversubscribe --parsable -p --partition --power --prefer --priority --profile --propagate -q --qos -Q --quiet --reboot --requeue --reservation --resources --resv-ports --segment --signal --sockets-per-node --spread-job --spread-segments --stepmgr --switches --tasks-per-node --test-only --thread-spec --threads-per-core -t --time --time-min --tmp --tres-bind --tres-per-task --uid --usage --use-min-nodes -v --verbose -V --version -W --wait --wait-all-nodes --wckey --wrap'
    ['sovctl run']='-h --help'
    ['sovctl run ls']='--all -o --format -n --noheader --json -h --help'
    ['sovctl run show']='--stacks --attempt --json -h --help'
    ['sovctl run why']='--attempt --json -h --help'
    ['sovctl run events']='--json -h --help'
    ['sovctl run stop']='--dry-run -h --help'
    ['sovctl run resume']='--dry-run -h --help'
    ['sovctl ckpt']='-h --help'
    ['sovctl ckpt ls']='--run --checkpoint-format -o --format -n --noheader --json -h --help'
    ['sovctl ckpt verify']='--step --deep --alone --checkpoint-format --json -h --help'
    ['sovctl ckpt latest']='--run --checkpoint-format --json -h --help'
    ['sovctl ckpt quarantine']='--step --reason --even-complete --checkpoint-format --dry-run --json -h --help'
    ['sovctl ckpt prune']='--keep --delete --run --checkpoint-format --dry-run --json -h --help'
    ['sovctl ckpt advise']='--run --save-time --stall --mttf --interval --grace --gpus --json -h --help'
    ['sovctl doctor']='-h --help'
    ['sovctl doctor isolation']='--image -p --partition -w --nodelist --here --json -h --help'
    ['sovctl exec']='--image --isolate --mount --home --clean-env --writable --env-name --runtime -h --help'
    ['sovctl image']='-h --help'
    ['sovctl image ls']='-o --format -n --noheader --json -h --help'
    ['sovctl image resolve']='--json -h --help'
    ['sovctl image prefetch']='--json --dry-run -h --help'
    ['sovctl image gc']='--keep --unused-days --json --dry-run -h --help'
    ['sovctl image env']='-h --help'
    ['sovctl image env ls']='--json -h --help'
    ['sovctl image env rm']='--dry-run -h --help'
    ['sovctl image env export']='--dry-run -h --help'
    ['sovctl node']='-h --help'
    ['sovctl node ls']='--all -o --format -n --noheader --json -h --help'
    ['sovctl node show']='--json -h --help'
    ['sovctl node check']='--json -h --help'
    ['sovctl node drain']='--reason --dry-run --json -h --help'
    ['sovctl node resume']='--force --dry-run --json -h --help'
    ['sovctl node history']='--json -h --help'
    ['sovctl health']='-h --help'
    ['sovctl health check']='--json --dry-run --observe -h --help'
    ['sovctl health watch']='--observe -h --help'
    ['sovctl health prolog']='--job --quiet -h --help'
    ['sovctl health epilog']='--job --quiet -h --help'
    ['sovctl health probes']='--json --learn --dry-run -h --help'
    ['sovctl health burn-in']='--all --piece --json --dry-run -h --help'
    ['sovctl health explain']='--json -h --help'
    ['sovctl sweep']='--act --dry-run --node --all --json -h --help'
    ['sovctl watch']='--act --observe --once -h --help'
    ['sovctl lab']='-h --help'
    ['sovctl lab up']='--nodes --gpus -d --dir --port --accounting --job-checks --scratch --no-health --set --json -h --help'
    ['sovctl lab down']='-d --dir --keep -h --help'
    ['sovctl lab status']='-d --dir --json -h --help'
    ['sovctl lab shell']='-d --dir -h --help'
    ['sovctl lab inject']='--node --gpu -d --dir --json -h --help'
    ['sovctl lab heal']='--node -d --dir -h --help'
    ['sovctl lab demo']='--json --keep -h --help'
    ['sovctl config']='-h --help'
    ['sovctl config show']='--changed --json -h --help'
    ['sovctl config check']='--json -h --help'
    ['sovctl completion']='-h --help'
)
declare -gA _sovctl_values=(
    ['sovctl submit --run-dir']='directory'
    ['sovctl submit --checkpoint-dir']='directory'
    ['sovctl submit --checkpoint-format']='auto accelerate dcp deepspeed hf-trainer lightning megatron nemo neuronx nvrx safetensors torchtitan'
    ['sovctl submit --max-hardware-faults']='-'
    ['sovctl submit --same-crash-limit']='-'
    ['sovctl submit --spare-nodes']='-'
    ['sovctl submit --min-nodes']='-'
    ['sovctl submit --hang-timeout']='-'
    ['sovctl submit --progress-regex']='-'
    ['sovctl submit -A']='-'
    ['sovctl submit --account']='-'
    ['sovctl submit --acctg-freq']='-'
    ['sovctl submit -a']='-'
    ['sovctl submit --array']='-'
    ['sovctl submit --batch']='-'
    ['sovctl submit --bb']='-'
    ['sovctl submit --bbf']='-'
    ['sovctl submit -b']='-'
    ['sovctl submit --begin']='-'
    ['sovctl submit -D']='directory'
    ['sovctl submit --chdir']='directory'
    ['sovctl submit --cluster']='-'
    ['sovctl submit --cluster-constraint']='-'
    ['sovctl submit -M']='-'
    ['sovctl submit --clusters']='-'
    ['sovctl submit --comment']='-'
    ['sovctl submit -C']='-'
    ['sovctl submit --constraint']='-'
    ['sovctl submit --container']='-'
    ['sovctl submit --container-id']='-'
    ['sovctl submit --container-type']='-'
    ['sovctl submit --context']='-'
    ['sovctl submit -S']='-'
    ['sovctl submit --core-spec']='-'
    ['sovctl submit --cores-per-socket']='-'
    ['sovctl submit --cpu-freq']='-'
    ['sovctl submit --cpus-per-gpu']='-'
    ['sovctl submit -c']='-'
    ['sovctl submit --cpus-per-task']='-'
    ['sovctl submit --deadline']='-'
    ['sovctl submit --delay-boot']='-'
    ['sovctl submit -d']='job'
    ['sovctl submit --dependency']='job'
    ['sovctl submit -m']='-'
    ['sovctl submit --distribution']='-'
    ['sovctl submit -e']='file'
    ['sovctl submit --error']='file'
    ['sovctl submit -x']='node'
    ['sovctl submit --exclude']='node'
    ['sovctl submit --exclusive']='-'
    ['sovctl submit --export']='-'
    ['sovctl submit --export-file']='file'
    ['sovctl submit --extra']='-'
    ['sovctl submit -B']='-'
    ['sovctl submit --extra-node-info']='-'
    ['sovctl submit --get-user-env']='-'
    ['sovctl submit --gid']='-'
    ['sovctl submit --gpu-bind']='-'
    ['sovctl submit --gpu-freq']='-'
    ['sovctl submit -G']='-'
    ['sovctl submit --gpus']='-'
    ['sovctl submit --gpus-per-node']='-'
    ['sovctl submit --gpus-per-socket']='-'
    ['sovctl submit --gpus-per-task']='-'
    ['sovctl submit --gres']='-'
    ['sovctl submit --gres-flags']='-'
    ['sovctl submit --hint']='-'
    ['sovctl submit -i']='file'
    ['sovctl submit --input']='file'
    ['sovctl submit -J']='-'
    ['sovctl submit --job-name']='-'
    ['sovctl submit --kill-on-invalid-dep']='-'
    ['sovctl submit -L']='-'
    ['sovctl submit --licenses']='-'
    ['sovctl submit --mail-type']='-'
    ['sovctl submit --mail-user']='-'
    ['sovctl submit --mcs-label']='-'
    ['sovctl submit --mem']='-'
    ['sovctl submit --mem-bind']='-'
    ['sovctl submit --mem-per-cpu']='-'
    ['sovctl submit --mem-per-gpu']='-'
    ['sovctl submit --mem-update']='-'
    ['sovctl submit --mincpus']='-'
    ['sovctl submit --network']='-'
    ['sovctl submit --nice']='-'
    ['sovctl submit -k']='-'
    ['sovctl submit --no-kill']='-'
    ['sovctl submit -F']='file'
    ['sovctl submit --nodefile']='file'
    ['sovctl submit -w']='node'
    ['sovctl submit --nodelist']='node'
    ['sovctl submit -N']='-'
    ['sovctl submit --nodes']='-'
    ['sovctl submit -n']='-'
    ['sovctl submit --ntasks']='-'
    ['sovctl submit --ntasks-per-core']='-'
    ['sovctl submit --ntasks-per-gpu']='-'
    ['sovctl submit --ntasks-per-node']='-'
    ['sovctl submit --ntasks-per-socket']='-'
    ['sovctl submit --ntasks-per-tres']='-'
    ['sovctl submit --oom-kill-step']='-'
    ['sovctl submit --open-mode']='append truncate'
    ['sovctl submit -o']='file'
    ['sovctl submit --output']='file'
    ['sovctl submit -p']='partition'
    ['sovctl submit --partition']='partition'
    ['sovctl submit --power']='-'
    ['sovctl submit --prefer']='-'
    ['sovctl submit --priority']='-'
    ['sovctl submit --profile']='-'
    ['sovctl submit --propagate']='-'
    ['sovctl submit -q']='qos'
    ['sovctl submit --qos']='qos'
    ['sovctl submit --requeue']='-'
    ['sovctl submit --reservation']='-'
    ['sovctl submit --resources']='-'
    ['sovctl submit --resv-ports']='-'
    ['sovctl submit --segment']='-'
    ['sovctl submit --signal']='-'
    ['sovctl submit --sockets-per-node']='-'
    ['sovctl submit --switches']='-'
    ['sovctl submit --tasks-per-node']='-'
    ['sovctl submit --thread-spec']='-'
    ['sovctl submit --threads-per-core']='-'
    ['sovctl submit -t']='-'
    ['sovctl submit --time']='-'
    ['sovctl submit --time-min']='-'
    ['sovctl submit --tmp']='-'
    ['sovctl submit --tres-bind']='-'
    ['sovctl submit --tres-per-task']='-'
    ['sovctl submit --uid']='-'
    ['sovctl submit --wait-all-nodes']='-'
    ['sovctl submit --wckey']='-'
    ['sovctl submit --wrap']='-'
    ['sovctl run ls -o']='-'
    ['sovctl run ls --format']='-'
    ['sovctl run show --attempt']='-'
    ['sovctl run why --attempt']='-'
    ['sovctl ckpt ls --run']='run'
    ['sovctl ckpt ls --checkpoint-format']='auto accelerate dcp deepspeed hf-trainer lightning megatron nemo neuronx nvrx safetensors torchtitan'
    ['sovctl ckpt ls -o']='-'
    ['sovctl ckpt ls --format']='-'
    ['sovctl ckpt verify --step']='-'
    ['sovctl ckpt verify --checkpoint-format']='auto accelerate dcp deepspeed hf-trainer lightning megatron nemo neuronx nvrx safetensors torchtitan'
    ['sovctl ckpt latest --run']='run'
    ['sovctl ckpt latest --checkpoint-format']='auto accelerate dcp deepspeed hf-trainer lightning megatron nemo neuronx nvrx safetensors torchtitan'
    ['sovctl ckpt quarantine --step']='-'
    ['sovctl ckpt quarantine --reason']='-'
    ['sovctl ckpt quarantine --checkpoint-format']='auto accelerate dcp deepspeed hf-trainer lightning megatron nemo neuronx nvrx safetensors torchtitan'
    ['sovctl ckpt prune --keep']='-'
    ['sovctl ckpt prune --run']='run'
    ['sovctl ckpt prune --checkpoint-format']='auto accelerate dcp deepspeed hf-trainer lightning megatron nemo neuronx nvrx safetensors torchtitan'
    ['sovctl ckpt advise --run']='run'
    ['sovctl ckpt advise --save-time']='-'
    ['sovctl ckpt advise --stall']='-'
    ['sovctl ckpt advise --mttf']='-'
    ['sovctl ckpt advise --interval']='-'
    ['sovctl ckpt advise --grace']='-'
    ['sovctl ckpt advise --gpus']='-'
    ['sovctl doctor isolation --image']='-'
    ['sovctl doctor isolation -p']='partition'
    ['sovctl doctor isolation --partition']='partition'
    ['sovctl doctor isolation -w']='node'
    ['sovctl doctor isolation --nodelist']='node'
    ['sovctl exec --image']='-'
    ['sovctl exec --mount']='-'
    ['sovctl exec --home']='none mount'
    ['sovctl exec --env-name']='-'
    ['sovctl exec --runtime']='bubblewrap apptainer charliecloud podman'
    ['sovctl image ls -o']='-'
    ['sovctl image ls --format']='-'
    ['sovctl image gc --keep']='-'
    ['sovctl image gc --unused-days']='-'
    ['sovctl node ls -o']='-'
    ['sovctl node ls --format']='-'
    ['sovctl node drain --reason']='-'
    ['sovctl health prolog --job']='job'
    ['sovctl health epilog --job']='job'
    ['sovctl health burn-in --piece']='matmul memory all-reduce'
    ['sovctl sweep --node']='node'
    ['sovctl lab up --nodes']='-'
    ['sovctl lab up --gpus']='-'
    ['sovctl lab up -d']='directory'
    ['sovctl lab up --dir']='directory'
    ['sovctl lab up --port']='-'
    ['sovctl lab up --set']='-'
    ['sovctl lab down -d']='directory'
    ['sovctl lab down --dir']='directory'
    ['sovctl lab status -d']='directory'
    ['sovctl lab status --dir']='directory'
    ['sovctl lab shell -d']='directory'
    ['sovctl lab shell --dir']='directory'
    ['sovctl lab inject --node']='node'
    ['sovctl lab inject --gpu']='-'
    ['sovctl lab inject -d']='directory'
    ['sovctl lab inject --dir']='directory'
    ['sovctl lab heal --node']='node'
    ['sovctl lab heal -d']='directory'
    ['sovctl lab heal --dir']='directory'
)
declare -gA _sovctl_optional=(
    ['sovctl submit --exclusive']='yes'
    ['sovctl submit --get-user-env']='yes'
    ['sovctl submit --nice']='yes'
    ['sovctl submit -k']='yes'
    ['sovctl submit --no-kill']='yes'
    ['sovctl submit --oom-kill-step']='yes'
    ['sovctl submit --propagate']='yes'
    ['sovctl submit --requeue']='yes'
    ['sovctl submit --resv-ports']='yes'
)
declare -gA _sovctl_arguments=(
    ['sovctl submit']='file file+'
    ['sovctl run show']='run'
    ['sovctl run why']='run'
    ['sovctl run events']='run'
    ['sovctl run stop']='run'
    ['sovctl run resume']='run'
    ['sovctl ckpt ls']='directory'
    ['sovctl ckpt verify']='file'
    ['sovctl ckpt latest']='directory'
    ['sovctl ckpt quarantine']='file'
    ['sovctl ckpt prune']='directory'
    ['sovctl exec']='program+'
    ['sovctl image env export']='- file'
    ['sovctl node show']='node'
    ['sovctl node check']='node'
    ['sovctl node drain']='node'
    ['sovctl node resume']='node'
    ['sovctl node history']='node'
    ['sovctl health explain']='file'
    ['sovctl lab shell']='program+'
    ['sovctl config check']='file'
    ['sovctl completion']='bash|zsh|fish'
)

_sovctl() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} path=sovctl open=yes seen=0 skip= word at kind
    local -a words=()
    COMPREPLY=()
    # bash splits `--option=value` into three words.
    if [[ $cur == = ]]; then
        cur=
    elif [[ $prev == = ]]; then
        prev=${COMP_WORDS[COMP_CWORD-2]}
    fi
    for ((at = 1; at < COMP_CWORD; at++)); do
        word=${COMP_WORDS[at]}
        if [[ $word == = ]]; then
            [[ -n $skip && $at -lt $((COMP_CWORD - 1)) ]] && skip=value
        elif [[ -n $skip ]]; then
            skip=
        elif [[ -z $open ]]; then
            ((seen++))
        elif [[ $word == -- ]]; then
            open=
        elif [[ $word == -* ]]; then
            [[ -n ${_sovctl_values["$path $word"]-} && ${COMP_WORDS[at+1]} != = ]] && skip=value
            [[ -n ${_sovctl_values["$path $word"]-} && ${COMP_WORDS[at+1]} == = ]] && skip=equals
        elif [[ " ${_sovctl_commands["$path"]} " == *" $word "* ]]; then
            path+=" $word"
        else
            ((seen++))
            # sbatch and exec stop reading options at the script or command.
            [[ $path == "sovctl submit" || $path == "sovctl exec" ]] && open=
        fi
    done
    word=${COMP_WORDS[COMP_CWORD-1]}${COMP_WORDS[COMP_CWORD]}
    if [[ -n $open && $prev == -* && -n ${_sovctl_values["$path $prev"]-} ]] \
        && [[ $word == =* || $word == *= || -z ${_sovctl_optional["$path $prev"]-} ]]
    then
        _sovctl_value "${_sovctl_values["$path $prev"]}"
        return
    fi
    if [[ -n $open && $cur == -* ]]; then
        COMPREPLY=($(compgen -W "${_sovctl_options["$path"]}" -- "$cur"))
        return
    fi
    if [[ -n ${_sovctl_commands["$path"]} ]]; then
        ((seen)) || COMPREPLY=($(compgen -W "${_sovctl_commands["$path"]}" -- "$cur"))
        return
    fi
    words=(${_sovctl_arguments["$path"]})
    kind=${words[seen]-}
    if [[ -z $kind && ${#words[@]} -gt 0 && ${words[-1]} == *+ ]]; then
        kind=${words[-1]}
    fi
    kind=${kind%+}
    _sovctl_value "${kind//|/ }"
}

_sovctl_value() {
    local IFS=$'\n'
    case $1 in
        '' | -) ;;
        file) compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur")) ;;
        directory) compopt -o filenames; COMPREPLY=($(compgen -d -- "$cur")) ;;
        program) compopt -o filenames; COMPREPLY=($(compgen -c -f -- "$cur")) ;;
        job | node | partition | qos | run)
            COMPREPLY=($(command "${COMP_WORDS[0]}" complete "$1" "$cur" 2>/dev/null))
            # More may follow a comma.
            [[ $1 == node ]] && compopt -o nospace
            ;;
        *) IFS=' '$'\n'; COMPREPLY=($(compgen -W "$1" -- "$cur")) ;;
    esac
}

complete -F _sovctl sovctl
