// Where pictures come from: a file, a drop, the clipboard, the camera. Each gives (blob, name) to `take`.
import { byId } from "./dom.js";

/** Files dropped on `target` or chosen with `input`; the first goes to `take`. */
export function takeFiles(target, input, take) {
  input.addEventListener("change", () => {
    if (input.files[0]) take(input.files[0], input.files[0].name);
    input.value = "";
  });
  for (const kind of ["dragenter", "dragover"]) {
    target.addEventListener(kind, (event) => {
      event.preventDefault();
      target.classList.add("over");
    });
  }
  target.addEventListener("dragleave", () => target.classList.remove("over"));
  target.addEventListener("drop", (event) => {
    event.preventDefault();
    target.classList.remove("over");
    const [file] = event.dataTransfer.files;
    if (file) take(file, file.name);
  });
}

/** Pictures pasted while the panel is shown. */
export function takePasted(panel, take) {
  document.addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find((each) => each.type.startsWith("image/"));
    if (panel.hidden || !file) return;
    event.preventDefault();
    take(file, file.name || "pasted.png");
  });
}

export const hasCamera = () => Boolean(navigator.mediaDevices?.getUserMedia);

/** Show what the camera sees; the middle square of the frame that is taken goes to `take`. */
export async function openCamera(take) {
  const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  const [dialog, video] = [byId("camera"), byId("camera-video")];
  const stop = () => stream.getTracks().forEach((track) => track.stop());
  video.srcObject = stream;
  dialog.addEventListener("close", stop, { once: true });
  byId("camera-no").onclick = () => dialog.close();
  byId("camera-yes").onclick = async () => {
    const blob = await frameOf(video);
    dialog.close();
    take(blob, "camera.png");
  };
  dialog.showModal();
  await video.play();
}

function frameOf(video) {
  const side = Math.min(video.videoWidth, video.videoHeight);
  const sheet = document.createElement("canvas");
  sheet.width = sheet.height = Math.min(side, 560);
  const [left, top] = [(video.videoWidth - side) / 2, (video.videoHeight - side) / 2];
  sheet.getContext("2d").drawImage(video, left, top, side, side, 0, 0, sheet.width, sheet.width);
  return new Promise((done) => sheet.toBlob(done, "image/png"));
}
