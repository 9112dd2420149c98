"""A text for each student about what was checked, in Chinese and English.

write_feedback(folder, {"Ann.zip": grade})      # folder/Ann.zip.txt
"""

import re
from pathlib import Path

from common import printable
from common.checkpoints import atomic_write
from common.process import say
from grading.marks import SCHEME, Grade

CHINESE = {  # {how a check begins: what it is about}
    "models/": "模型文件不存在或未通过检查",
    "log/": "训练日志缺失，或与模型文件不一致",
    "vis/": "图片缺失，或与模型的输出不一致",
    "layers": "网络结构与作业要求不符",
    "epochs": "训练轮数超过要求",
    "data": "训练所用的数据与作业数据不一致",
    "weights": "用权重重新计算的损失与所报告的不一致",
    "outputs": "输出值超出 [0, 1]",
    "train loss": "训练损失未达到要求",
    "valid loss": "验证损失未达到要求",
    "both losses": "损失没有低于多层感知机",
    "test loss": "测试损失不低于平均图像的损失",
}
INTRODUCTION = {
    "zh": "以下是程序根据你提交的模型、日志和图片得出的检查结果，代码和报告由助教另行评阅。",
    "en": "A program checked your models, logs and pictures; a person reads your code and your report.",
}


def write_feedback(folder: Path, grades: dict[str, Grade]) -> None:
    """Write a text for each hand-in into a folder. Raises UserError."""
    for name, grade in grades.items():
        with atomic_write(folder / f"{printable(name)}.txt") as file:
            file.write("\n".join([*in_chinese(grade), "", *in_english(grade), ""]).encode("utf-8-sig"))
    say(f"wrote {len(grades)} texts to {folder}")


def in_chinese(grade: Grade) -> list[str]:
    """The lines for a student, in Chinese; a command in backquotes is what fixes a check."""
    if grade.problem:
        return [f"你的作业无法自动检查，原因是：{printable(grade.problem)}。请重新提交一个 zip 压缩包。"]
    lines = [INTRODUCTION["zh"], *_points(grade, "{part}：{points:.4g} / {most:g}")]
    lines.append(f"未通过的检查：{len(grade.failures)} 项" if grade.failures else "所有检查均已通过。")
    for row in grade.failures:
        reason = next(text for start, text in CHINESE.items() if row.check.startswith(start))
        commands = re.findall("`[^`]+`", row.finding)
        remedy = f"运行 {commands[-1]} 可以解决。" if commands else "请重新提交这个文件。"
        lines.append(printable(f"- {row.model}，{row.check}：{reason}。{remedy}"))
    return lines


def in_english(grade: Grade) -> list[str]:
    """The lines for a student, in English, with all that was found."""
    if grade.problem:
        return [f"Your hand-in could not be checked: {printable(grade.problem)}. Please hand in a zip archive."]
    lines = [INTRODUCTION["en"], *_points(grade, "{part}: {points:.4g} of {most:g}")]
    lines.append(f"Failed checks: {len(grade.failures)}" if grade.failures else "All checks passed.")
    return lines + [printable(f"- {row.model}, {row.check}: {row.finding}") for row in grade.failures]


def _points(grade, form):
    return [form.format(part=part, points=points, most=SCHEME[part][0]) for part, points in grade.points.items()]
