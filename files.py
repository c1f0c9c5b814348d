"""Files that survive a kill, a full disk and a power cut, and locks on folders.

    write_atomic    a file is the old one or the new one, never half of it
    Lock            only one run writes to a folder
    append_record   add a record to log.jsonl (a kill can cut the last line short)
    read_log        the records of log.jsonl, without what is damaged
    cut_log         drop the records that a resumed run will write again, and damaged lines

Reading never changes a file. Writing raises OSError if the disk is full or the folder is gone.
"""

import contextlib
import errno
import json
import os
import platform
import re
import time
from pathlib import Path

from data import require


WINDOWS = os.name == 'nt'
if WINDOWS:
    import msvcrt
else:
    import fcntl

LOCK_FILE = 'run.lock'  # of rank 0; of rank r run.<r>.lock
IN_USE = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)  # another process holds the lock
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)  # not on this file system

# what this repository writes into the folder of a run besides its files
TEMPORARY = re.compile(r'(ckpt[^/]*\.pt|log\.jsonl|\w+\.json|\w+\.png)\.\d+\.tmp')
LOCK_NAME = re.compile(r'run(\.\d+)?\.lock')


# -----------------------------------------------------------------------------
# whole files

def write_atomic(path, write):
    """write(temporary path), then move the file into place: nobody ever sees half a file.

    The temporary name contains the process id, so two processes never share one. The file is on the
    disk before it is moved. So after a power cut, too, the old file or the new one is there. If
    writing or moving fails, the temporary file is removed, and the old file stays.
    """
    path = Path(path)
    temporary = Path(f'{path}.{os.getpid()}.tmp')
    try:
        write(temporary)
        sync(temporary)
        replace(temporary, path)
    except BaseException:  # also on Ctrl-C
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    if not WINDOWS:  # which cannot open a folder
        sync(path.parent)  # so that the new name is on the disk, too


def sync(path):
    """Wait until a file, or the names in a folder, are on the disk."""
    file = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in (errno.EINVAL, *NO_LOCKS):  # some do not support it
            raise
    finally:
        os.close(file)


def replace(source, target):
    """os.replace. Windows refuses it while somebody has the target open: try for two seconds."""
    for _ in range(20 if WINDOWS else 0):
        try:
            os.replace(source, target)
            return
        except PermissionError:
            time.sleep(0.1)
    os.replace(source, target)


def remove_temporaries(folder):
    """Remove what killed runs left half-written. Call it only while holding the lock."""
    for path in folder.iterdir():
        if is_temporary(path):
            path.unlink()


def is_temporary(path):
    return TEMPORARY.fullmatch(path.name) is not None


def is_lock(path):
    return LOCK_NAME.fullmatch(path.name) is not None


# -----------------------------------------------------------------------------
# one writer

class Lock:
    """Only one run at a time writes to a folder. It holds the file run.lock.

    The operating system lets go of a lock when its process ends, however it ends. So the file of a
    run that was killed is taken over. The process id in it is for the message alone.

    Under torchrun each process has a lock file of its own. So the folder stays locked while any of
    them is alive, even if the launcher and rank 0 are gone.
    """

    def __init__(self, folder, rank=0):
        """Make the folder and lock it. Raises ValueError if another run has it."""
        self.folder = folder
        self.path = folder / (LOCK_FILE if rank == 0 else f'run.{rank}.lock')
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.file = open(self.path, 'a+')  # noqa: SIM115  (open as long as the run)
        except OSError as error:
            raise ValueError(f'cannot write to --out_dir {folder}: {error.strerror}') from error
        self.folder_number = os.stat(folder).st_ino
        self.is_real = True  # False on a file system without locks
        try:
            lock_file(self.file)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                message = self.why_refused(error)
                self.file.close()
                raise ValueError(message) from None
            self.is_real = False

        try:
            self.file.truncate(0)
            self.file.write(f'process {os.getpid()} on {platform.node()}\n')
            self.file.flush()
            if rank == 0:
                self.refuse_other_ranks()
        except BaseException as error:
            self.release()
            if isinstance(error, OSError):
                raise ValueError(f'cannot write to --out_dir {folder}: {error.strerror}') from error
            raise

    def why_refused(self, error):
        if error.errno not in IN_USE:
            return f'cannot lock --out_dir {self.folder}: {error.strerror}'
        self.file.seek(0)
        owner = self.file.read(200).strip() or 'another process'
        return f'{self.folder} is in use by {owner}; wait for it, or give another --out_dir'

    def refuse_other_ranks(self):
        """Raise ValueError if a process of an earlier run of several processes is still alive."""
        for path in self.folder.glob('run.*.lock'):
            rank = path.name.split('.')[1]
            if rank.isdecimal():
                Lock(self.folder, int(rank)).release()

    def is_lost(self):
        """Has somebody removed the folder, or has another run taken it?"""
        try:
            if os.stat(self.folder).st_ino != self.folder_number:
                return True
            return not os.path.samestat(os.fstat(self.file.fileno()), os.stat(self.path))
        except FileNotFoundError:
            return not self.folder.exists()  # somebody removed the lock file alone
        except OSError:
            return True

    def release(self):
        """Remove the file, which lets go of the lock, too."""
        lost = self.is_lost()
        if WINDOWS:  # where no open file can be removed
            self.file.close()
        if not lost:
            with contextlib.suppress(OSError):
                self.path.unlink()
        with contextlib.suppress(OSError):  # closing writes, which a full disk refuses
            self.file.close()


def lock_file(file):
    """Lock an open file, or raise OSError at once if another process has locked it."""
    if WINDOWS:
        file.seek(2**20)  # beyond the text: a locked byte cannot be read
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # the run that held the lock before may have removed the file in between
        if os.fstat(file.fileno()).st_nlink == 0:
            raise OSError(errno.EAGAIN, 'the file is gone')


# -----------------------------------------------------------------------------
# log.jsonl

def append_record(folder, record, name='log.jsonl'):
    """Add a line to log.jsonl, or to another file of this kind."""
    line = json.dumps(record) + '\n'
    with open(Path(folder) / name, 'ab+') as f:
        if f.tell() > 0:
            f.seek(-1, os.SEEK_END)
            if f.read(1) != b'\n':  # a kill has cut the last line short
                line = '\n' + line
        f.write(line.encode('utf-8'))


def read_json(content):
    """The dict that a JSON text (bytes) holds, or None."""
    try:
        value = json.loads(content.decode('utf-8'))
    except (ValueError, RecursionError):  # RecursionError: [[[[...
        return None
    return value if isinstance(value, dict) else None


def read_log(folder, name='log.jsonl'):
    """The records of log.jsonl, as dicts. Lines that hold none are left out, such as a last line
    that a kill cut short."""
    try:
        content = (Path(folder) / name).read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        return []
    records = [read_json(line) for line in content.split(b'\n')]
    return [record for record in records if record is not None]


def count_damaged_lines(folder):
    """How many lines of log.jsonl hold no record, and are not empty."""
    path = Path(folder) / 'log.jsonl'
    lines = path.read_bytes().split(b'\n') if path.is_file() else []
    return sum(bool(line.strip()) and read_json(line) is None for line in lines)


def cut_log(folder, arm, step):
    """Drop what a run that resumes this arm at `step` will log again, and damaged lines."""
    lines = []
    for record in read_log(folder):
        if not is_logged_again(record, arm, step):
            lines.append(json.dumps(record) + '\n')
    text = ''.join(lines)
    write_atomic(Path(folder) / 'log.jsonl', lambda path: path.write_text(text, encoding='utf-8'))


def is_logged_again(record, arm, step):
    if record.get('arm') == 'final':
        return True
    at = record.get('step')
    is_step = isinstance(at, int | float) and not isinstance(at, bool)
    is_kept = is_step and step > 0 and at <= step
    return record.get('arm') == arm and not is_kept


def read_config(folder):
    """The dict of config.json. The settings of the run are its `args`, a dict, too.

    Raises ValueError if there is no such file, or if it is damaged.
    """
    path = Path(folder) / 'config.json'
    config = None
    if path.is_file():
        config = read_json(path.read_bytes())
    require(config is not None and isinstance(config.get('args'), dict),
            f'{path} is missing or damaged')
    return config
